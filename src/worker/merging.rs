//! What merges need: packs of deltas and regularization statistics, from the store or from the device.

use std::sync::Arc;

use super::context::Context;
use super::error::JobError;
use crate::domain::delta_use::DeltaUse;
use crate::engine::MergePack;
use crate::engine::PackUse;
use crate::engine::RegularizationStatistics;

impl Context {
    /// The packs of what a task names, in its order.
    pub(crate) async fn packs(&self, uses: &[DeltaUse]) -> Result<Vec<PackUse>, JobError> {
        let mut packs = Vec::new();
        for used in uses {
            packs.push(PackUse { pack: self.pack(used).await?, strength: used.strength });
        }
        Ok(packs)
    }

    /// A delta's pack at its strength; the one that is stored is of the whole strength.
    async fn pack(&self, used: &DeltaUse) -> Result<Arc<MergePack>, JobError> {
        let whole = self.deltas.pack_or(used, async || self.build_pack(used, 1.0).await).await?;
        let is_whole = used.strength.to_bits() == 1_f64.to_bits();
        if is_whole || !whole.depends_on_strength() {
            return Ok(whole);
        }
        let build = async || self.build_pack(used, used.strength).await;
        self.deltas.pack(used.delta_id, used.strength, build).await
    }

    /// Builds a delta's pack from the delta itself.
    pub(crate) async fn build_pack(
        &self,
        used: &DeltaUse,
        strength: f64,
    ) -> Result<MergePack, JobError> {
        let delta = self.deltas.delta(used).await?;
        let built =
            self.device.run_quick(move |engine| MergePack::build(&engine.base, &delta, strength));
        Ok(built.await??)
    }

    /// The regularization statistics over these captions, those of the class images if none are given.
    pub(crate) async fn statistics(
        &self,
        captions: Option<&[String]>,
    ) -> Result<Arc<RegularizationStatistics>, JobError> {
        let compute = async || {
            let captions = captions.map_or_else(|| self.class_images.captions(), <[_]>::to_vec);
            let computed = self
                .device
                .run_quick(move |engine| RegularizationStatistics::new(&engine.base, &captions));
            Ok(computed.await??)
        };
        self.deltas.statistics_or(captions, compute).await
    }
}
