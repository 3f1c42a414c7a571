//! Merge packs on the host: read from the store, or built from a delta, once, then shared.

use std::sync::{Arc, Mutex, PoisonError};

use super::error::JobError;
use super::lru::Lru;
use super::runner::Worker;
use crate::domain::id::DeltaId;
use crate::domain::sample::DeltaUse;
use crate::engine::conditioning::ConceptUse;
use crate::engine::custom_diffusion::delta::DeltaConcept;
use crate::engine::custom_diffusion::merge::PackUse;
use crate::engine::custom_diffusion::pack::MergePack;
use crate::merge_desk::{DeskError, read_pack};

/// Host memory for packs: about a hundred of Stable Diffusion 1's size, thousands of `tiny`'s.
const BUDGET_BYTES: usize = 256 * 1024 * 1024;

/// What a sample's deltas are on the host: one as it is, or the packs of several, which are merged on the way.
#[derive(Clone)]
pub(crate) enum Concepts {
    Whole(Option<ConceptUse>),
    Packs(Vec<PackUse>),
}

impl Concepts {
    /// Reads what a task names.
    pub(crate) async fn read(worker: &Worker, uses: &[DeltaUse]) -> Result<Self, JobError> {
        // What two deltas change overlaps, so they are merged, not added.
        if uses.len() > 1 {
            return Ok(Self::Packs(worker.packs.read(worker, uses).await?));
        }
        Ok(Self::Whole(worker.deltas.read(&worker.storage, uses).await?.pop()))
    }

    /// What they teach, in the deltas' order.
    pub(crate) fn learnt(&self) -> Vec<&DeltaConcept> {
        match self {
            Self::Whole(one) => one.iter().flat_map(|used| &used.delta.concepts).collect(),
            Self::Packs(packs) => packs.iter().flat_map(|used| &used.pack.concepts).collect(),
        }
    }

    pub(crate) fn modifier_tokens(&self) -> Vec<&str> {
        let learnt = self.learnt().into_iter();
        learnt.filter_map(|one| Some(one.modifier_token.as_ref()?.as_str())).collect()
    }

    pub(crate) fn is_base_model(&self) -> bool {
        matches!(self, Self::Whole(None))
    }
}

/// A delta, and the bits of a strength.
type PackId = (DeltaId, u64);

/// The packs that were used last. Deltas never change, and a worker has one base model.
#[derive(Clone)]
pub(crate) struct PackCache {
    kept: Arc<Mutex<Lru<PackId, Arc<MergePack>>>>,
}

impl Default for PackCache {
    fn default() -> Self {
        Self { kept: Arc::new(Mutex::new(Lru::new(BUDGET_BYTES))) }
    }
}

impl PackCache {
    /// The packs of what a task names, in its order.
    pub(crate) async fn read(
        &self,
        worker: &Worker,
        uses: &[DeltaUse],
    ) -> Result<Vec<PackUse>, JobError> {
        let mut packs = Vec::new();
        for used in uses {
            let pack = self.at_strength(worker, used).await?;
            packs.push(PackUse { pack, strength: used.strength });
        }
        Ok(packs)
    }

    /// A delta's pack at its strength; the one that is stored is of the whole strength.
    async fn at_strength(
        &self,
        worker: &Worker,
        used: &DeltaUse,
    ) -> Result<Arc<MergePack>, JobError> {
        let whole = self.stored(worker, used).await?;
        let id = (used.delta_id, used.strength.to_bits());
        if id == whole_id(used) || !whole.depends_on_strength() {
            return Ok(whole);
        }
        if let Some(known) = self.lock().get(&id) {
            return Ok(known);
        }
        let pack = Arc::new(build(worker, used, used.strength).await?);
        self.keep(id, &pack);
        Ok(pack)
    }

    async fn stored(&self, worker: &Worker, used: &DeltaUse) -> Result<Arc<MergePack>, JobError> {
        let id = whole_id(used);
        if let Some(known) = self.lock().get(&id) {
            return Ok(known);
        }
        let pack = match &used.pack_key {
            Some(key) => read_pack(&worker.storage, key).await.map_err(|error| match error {
                DeskError::Storage(error) => error.into(),
                other => JobError::DamagedObject { key: key.to_string(), source: other.into() },
            })?,
            // A delta from before packs were stored beside them.
            None => build(worker, used, 1.0).await?,
        };
        let pack = Arc::new(pack);
        self.keep(id, &pack);
        Ok(pack)
    }

    fn keep(&self, id: PackId, pack: &Arc<MergePack>) {
        self.lock().put(id, pack.clone(), pack.size_bytes());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lru<PackId, Arc<MergePack>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn whole_id(used: &DeltaUse) -> PackId {
    (used.delta_id, 1_f64.to_bits())
}

/// Builds a delta's pack from the delta itself.
pub(crate) async fn build(
    worker: &Worker,
    used: &DeltaUse,
    strength: f64,
) -> Result<MergePack, JobError> {
    let delta = worker.deltas.read_one(&worker.storage, used).await?;
    let built = worker
        .gpu
        .run_quick(move |engine| MergePack::build(&engine.base, &delta, strength))
        .await?;
    Ok(built?)
}
