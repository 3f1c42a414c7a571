//! Deltas on the host: read from the store once, then shared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::JobError;
use crate::domain::id::DeltaId;
use crate::domain::sample::DeltaUse;
use crate::engine::conditioning::ConceptUse;
use crate::engine::custom_diffusion::delta::Delta;
use crate::storage::{Storage, StorageKey};

/// Deltas kept: 75 MB each at most for a Stable Diffusion 1.
const CAPACITY: usize = 16;

/// The deltas that were used last.
#[derive(Clone, Default)]
pub(crate) struct DeltaCache {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    deltas: HashMap<DeltaId, (u64, Arc<Delta>)>,
    uses: u64,
}

impl Kept {
    fn get(&mut self, delta_id: DeltaId) -> Option<Arc<Delta>> {
        self.uses += 1;
        let (last_use, delta) = self.deltas.get_mut(&delta_id)?;
        *last_use = self.uses;
        Some(delta.clone())
    }

    fn put(&mut self, delta_id: DeltaId, delta: Arc<Delta>) {
        self.uses += 1;
        self.deltas.insert(delta_id, (self.uses, delta));
        if self.deltas.len() > CAPACITY {
            let oldest = self.deltas.iter().min_by_key(|(_, (last_use, _))| *last_use);
            if let Some(oldest) = oldest.map(|(delta_id, _)| *delta_id) {
                self.deltas.remove(&oldest);
            }
        }
    }
}

impl DeltaCache {
    /// Reads what a task names, in its order.
    pub(crate) async fn read(
        &self,
        storage: &Storage,
        uses: &[DeltaUse],
    ) -> Result<Vec<ConceptUse>, JobError> {
        let mut concepts = Vec::new();
        for used in uses {
            let delta = self.read_one(storage, used).await?;
            concepts.push(ConceptUse { delta, strength: used.strength });
        }
        Ok(concepts)
    }

    async fn read_one(&self, storage: &Storage, used: &DeltaUse) -> Result<Arc<Delta>, JobError> {
        if let Some(delta) = self.lock().get(used.delta_id) {
            return Ok(delta);
        }
        let key = StorageKey::stored(&used.storage_key);
        let bytes = storage.read(&key).await?;
        let delta = Delta::from_safetensors(&bytes).map_err(|error| JobError::DamagedObject {
            key: key.as_str().to_owned(),
            source: error.into(),
        })?;
        let delta = Arc::new(delta);
        self.lock().put(used.delta_id, delta.clone());
        Ok(delta)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
