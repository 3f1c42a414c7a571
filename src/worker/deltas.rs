//! Deltas on the host: read from the store once, checked against the catalog, then shared.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;

use super::error::JobError;
use super::lru::Lru;
use crate::domain::id::DeltaId;
use crate::domain::sample::DeltaUse;
use crate::engine::{ConceptUse, Delta};
use crate::storage::{Storage, StorageKey};

/// The deltas that were used last, up to so many bytes.
#[derive(Clone)]
pub struct DeltaCache {
    kept: Arc<Mutex<Lru<DeltaId, Arc<Delta>>>>,
    /// Who reads a delta now: samples of one new concept that come together read it once.
    reading: Arc<Mutex<HashMap<DeltaId, Arc<AsyncMutex<()>>>>>,
}

impl DeltaCache {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self { kept: Arc::new(Mutex::new(Lru::new(budget_bytes))), reading: Arc::default() }
    }

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

    /// Host memory that the kept deltas take.
    pub fn used_bytes(&self) -> usize {
        self.lock().used_bytes()
    }

    pub(crate) async fn read_one(
        &self,
        storage: &Storage,
        used: &DeltaUse,
    ) -> Result<Arc<Delta>, JobError> {
        if let Some(delta) = self.get(used) {
            return Ok(delta);
        }
        let turn = self.readers().entry(used.delta_id).or_default().clone();
        let _turn = turn.lock().await;
        if let Some(delta) = self.get(used) {
            return Ok(delta);
        }
        let read = self.read_object(storage, used).await;
        self.readers().remove(&used.delta_id);
        read
    }

    async fn read_object(
        &self,
        storage: &Storage,
        used: &DeltaUse,
    ) -> Result<Arc<Delta>, JobError> {
        let key = StorageKey::stored(&used.storage_key);
        let damaged = |source| JobError::DamagedObject { key: key.as_str().to_owned(), source };
        let bytes = storage.read(&key).await?;
        let sha256 = used.sha256.clone();
        let parsed = tokio::task::spawn_blocking(move || parse(&bytes, &sha256)).await;
        let delta = parsed.unwrap_or_else(|panic| Err(panic.into())).map_err(damaged)?;
        self.lock().put(used.delta_id, delta.clone(), delta.size_bytes());
        Ok(delta)
    }

    fn get(&self, used: &DeltaUse) -> Option<Arc<Delta>> {
        self.lock().get(&used.delta_id)
    }

    fn readers(&self) -> MutexGuard<'_, HashMap<DeltaId, Arc<AsyncMutex<()>>>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Lru<DeltaId, Arc<Delta>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Checks an object against its digest, then reads it; whether its matrices fit the base model is for the engine to say.
fn parse(bytes: &[u8], sha256: &str) -> Result<Arc<Delta>, Reason> {
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(bytes));
    if digest != sha256 {
        let size = bytes.len();
        let text = format!(
            "its {size} bytes have the SHA-256 {digest:.12}, it was stored with {sha256:.12}"
        );
        return Err(text.into());
    }
    Ok(Arc::new(Delta::from_safetensors(bytes)?))
}
