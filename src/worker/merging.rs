//! What merges need: packs of deltas and regularization statistics, from the store or from the device.

use std::sync::Arc;

use super::context::Context;
use super::error::JobError;
use crate::db;
use crate::domain::delta::Delta;
use crate::domain::delta_use::DeltaUse;
use crate::engine::MergePack;
use crate::engine::PackUse;
use crate::engine::{RegularizationStatistics, StatisticsBase, encode_captions};

/// Captions that the device encodes without interruption: about a second on a CPU with Stable Diffusion 1.
const CAPTIONS_AT_ONCE: usize = 8;

impl Context {
    /// The packs of what a task names, in its order.
    pub(crate) async fn packs(&self, uses: &[DeltaUse]) -> Result<Vec<PackUse>, JobError> {
        let mut packs = Vec::new();
        for used in uses {
            packs.push(PackUse { pack: self.pack(used).await?, strength: used.strength });
        }
        Ok(packs)
    }

    /// A delta's pack at the strength of its use. The stored pack is that of strength 1 (ADR 0018).
    async fn pack(&self, used: &DeltaUse) -> Result<Arc<MergePack>, JobError> {
        let whole = self.deltas.pack_or(used, async || self.missing_pack(used).await).await?;
        let is_whole = used.strength.to_bits() == 1_f64.to_bits();
        if is_whole || !whole.depends_on_strength() {
            return Ok(whole);
        }
        let build = async || self.build_pack(used, used.strength).await;
        self.deltas.pack(used.delta_id, used.strength, build).await
    }

    /// The pack of a delta that a task names without one.
    async fn missing_pack(&self, used: &DeltaUse) -> Result<MergePack, JobError> {
        match db::delta::find_for_worker(&self.db, &[used.delta_id]).await?.first() {
            Some(delta) if delta.pack_key.is_none() => self.make_pack(delta).await,
            Some(_) | None => self.build_pack(used, 1.0).await,
        }
    }

    /// Builds the pack of a delta that has none, stores it and notes it with the delta.
    pub(crate) async fn make_pack(&self, delta: &Delta) -> Result<MergePack, JobError> {
        let pack = self.build_pack(&delta.used_at(1.0), 1.0).await?;
        // No lease has the number 0, so no job writes there.
        let key = self.deltas.write_pack(delta.job_id, 0, &pack).await?;
        db::delta::add_pack(&self.db, delta.delta_id, key.as_str()).await?;
        Ok(pack)
    }

    /// Builds a delta's pack from the delta itself.
    async fn build_pack(&self, used: &DeltaUse, strength: f64) -> Result<MergePack, JobError> {
        let delta = self.deltas.delta(used).await?;
        let built =
            self.device.run_quick(move |engine| MergePack::build(&engine.base, &delta, strength));
        Ok(built.await??)
    }

    /// Sees that there are regularization statistics over the class images' captions, if there are class images.
    pub(crate) async fn default_statistics(&self) -> Result<(), JobError> {
        if !self.class_images.is_empty() {
            self.statistics(None).await?;
        }
        Ok(())
    }

    /// The regularization statistics over these captions, those of the class images if none are given.
    pub(crate) async fn statistics(
        &self,
        captions: Option<&[String]>,
    ) -> Result<Arc<RegularizationStatistics>, JobError> {
        let compute = async || {
            let captions = captions.map_or_else(|| self.class_images.captions(), <[_]>::to_vec);
            self.compute_statistics(captions).await
        };
        self.deltas.statistics_or(captions, compute).await
    }

    /// The device encodes a few captions at a time, so that samples go on in between; the rest is computed beside it.
    async fn compute_statistics(
        &self,
        captions: Vec<String>,
    ) -> Result<RegularizationStatistics, JobError> {
        let base = self.device.run_quick(|engine| StatisticsBase::of(&engine.base)).await??;
        let mut features = Vec::new();
        for some in captions.chunks(CAPTIONS_AT_ONCE) {
            let some = some.to_vec();
            let encoded = self.device.run_quick(move |engine| encode_captions(&engine.base, &some));
            features.extend(encoded.await??);
        }
        let computed = tokio::task::spawn_blocking(move || {
            RegularizationStatistics::of_captions(&base, &captions, &features)
        });
        Ok(computed.await.map_err(|_| JobError::EnginePanicked)??)
    }
}
