//! Objects to values: each is checked against the digest that it was stored with.

use super::error::{DeltaStoreError, Reason};
use crate::domain::delta_use::DeltaUse;
use crate::domain::digest::Digest;
use crate::engine::Delta;
use crate::engine::MergePack;
use crate::storage::{Storage, StorageKey};

/// Reads a delta; whether its matrices fit the base model is for the engine to say.
pub(super) async fn read_delta(
    storage: &Storage,
    used: &DeltaUse,
) -> Result<Delta, DeltaStoreError> {
    let bytes = storage.read_checked(&used.storage_key, &used.sha256).await?;
    let parse = move || Delta::from_safetensors(&bytes).map_err(Reason::from);
    let parsed = tokio::task::spawn_blocking(parse).await;
    parsed
        .unwrap_or_else(|panic| Err(panic.into()))
        .map_err(|source| damaged(&used.storage_key, source))
}

/// Reads a pack; its key has its digest.
pub(super) async fn read_pack(
    storage: &Storage,
    key: &StorageKey,
) -> Result<MergePack, DeltaStoreError> {
    let bytes = storage.read(key).await?;
    let sha256 = Digest::of(&bytes);
    if !key.contains(sha256.as_str()) {
        return Err(damaged(key, format!("its bytes have the SHA-256 {sha256:.12}")));
    }
    MergePack::from_safetensors(&bytes).map_err(|error| damaged(key, error))
}

pub(super) fn damaged(key: &StorageKey, reason: impl Into<Reason>) -> DeltaStoreError {
    DeltaStoreError::Damaged { key: key.clone(), source: reason.into() }
}
