//! What the API answers about deltas by itself, without a device and without a job: how they go together, and what
//! their whole matrices are.
//!
//! Trainings and merges leave a pack beside each delta, and once per base model and set of captions what all merges
//! have in common. With these a check is a few products of small matrices, in the process that serves the API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Tensor;
use sha2::{Digest, Sha256};

use crate::domain::id::DeltaId;
use crate::domain::merge::{MergeRecipe, MergeReport};
use crate::domain::sample::DeltaUse;
use crate::engine::EngineError;
use crate::engine::custom_diffusion::delta::Delta;
use crate::engine::custom_diffusion::merge::{Merge, PackUse};
use crate::engine::custom_diffusion::merge_base::{MergeBase, captions_digest};
use crate::engine::custom_diffusion::pack::MergePack;
use crate::storage::{Storage, StorageError, StorageKey};
use crate::worker::Lru;

/// Memory for packs, and for what merges have in common.
const PACK_BYTES: usize = 128 * 1024 * 1024;
const MERGE_BASES: usize = 4;

/// What the API's process knows of its base model's numbers.
#[derive(Clone, Default)]
pub struct MergeKit {
    pub base_digest: String,
    /// Of the captions that merges keep unless a request gives others; `None` if there are none.
    pub captions_digest: Option<String>,
    /// `to_k` and `to_v` of the cross-attention layers, by checkpoint name.
    pub kv_weights: BTreeMap<String, Tensor>,
}

type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("`{0}` was stored before merge packs were")]
    PackMissing(DeltaId),
    /// Nobody has merged over these captions yet, so their text features are not known here.
    #[error("these captions have not been encoded yet")]
    CaptionsNotEncoded,
    #[error("the object store failed")]
    Storage(#[from] StorageError),
    #[error("object `{key}` is damaged")]
    Damaged { key: String, source: Reason },
    /// The deltas cannot be merged so.
    #[error("{0}")]
    Refused(String),
    #[error("the algebra failed")]
    Engine(#[source] EngineError),
    #[error("the work ended early")]
    Panicked,
}

impl From<EngineError> for DeskError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::InvalidInput(reason) => Self::Refused(reason),
            other => Self::Engine(other),
        }
    }
}

/// Answers, and remembers what it has read.
#[derive(Clone)]
pub struct MergeDesk {
    storage: Storage,
    kit: Arc<MergeKit>,
    packs: Arc<Mutex<Lru<DeltaId, Arc<MergePack>>>>,
    /// The last one first.
    merge_bases: Arc<Mutex<Vec<Arc<MergeBase>>>>,
}

impl MergeDesk {
    pub fn new(storage: Storage, kit: MergeKit) -> Self {
        let packs = Arc::new(Mutex::new(Lru::new(PACK_BYTES)));
        Self { storage, kit: Arc::new(kit), packs, merge_bases: Arc::default() }
    }

    /// Solves the merge and says how well it goes.
    ///
    /// # Errors
    /// [`DeskError`]; [`DeskError::Refused`] if the deltas cannot be merged by this recipe at all.
    pub async fn check(
        &self,
        deltas: &[DeltaUse],
        recipe: &MergeRecipe,
    ) -> Result<MergeReport, DeskError> {
        let merge_base = self.merge_base(recipe).await?;
        let mut packs = Vec::new();
        for used in deltas {
            packs.push(PackUse { pack: self.pack(used).await?, strength: used.strength });
        }
        let recipe = recipe.clone();
        let solved = tokio::task::spawn_blocking(move || {
            Merge::new(&merge_base, &packs, &recipe)?.report(&merge_base, &recipe)
        });
        Ok(solved.await.map_err(|_| DeskError::Panicked)??)
    }

    /// The file of a delta with whole matrices, from its own file.
    ///
    /// # Errors
    /// [`DeskError::Refused`] for a delta of another base model, [`DeskError::Damaged`] for a file that is not as it was
    /// written.
    pub async fn dense(&self, storage_key: &str) -> Result<Vec<u8>, DeskError> {
        let key = StorageKey::stored(storage_key);
        let bytes = self.storage.read(&key).await?;
        let kit = self.kit.clone();
        let dense = tokio::task::spawn_blocking(move || {
            let damaged = |error| damaged(key.as_str(), error);
            let delta = Delta::from_safetensors(&bytes).map_err(damaged)?;
            if delta.base_digest != kit.base_digest {
                let text = "it was made for another base model than the one that is served";
                return Err(DeskError::Refused(text.to_owned()));
            }
            Ok(delta.to_dense(&kit.kv_weights)?.to_safetensors()?)
        });
        dense.await.map_err(|_| DeskError::Panicked)?
    }

    async fn merge_base(&self, recipe: &MergeRecipe) -> Result<Arc<MergeBase>, DeskError> {
        let digest = match &recipe.captions {
            Some(captions) => captions_digest(captions),
            None => self.kit.captions_digest.clone().ok_or(DeskError::CaptionsNotEncoded)?,
        };
        let find = |kept: &[Arc<MergeBase>]| {
            kept.iter().find(|known| known.captions_digest == digest).cloned()
        };
        if let Some(known) = find(&self.lock_bases()) {
            return Ok(known);
        }
        let key = StorageKey::merge_base(&self.kit.base_digest, &digest);
        let bytes = self.storage.read_if_there(&key).await?.ok_or(DeskError::CaptionsNotEncoded)?;
        let read = MergeBase::from_safetensors(&bytes);
        let merge_base = Arc::new(read.map_err(|error| damaged(key.as_str(), error))?);
        let mut kept = self.lock_bases();
        kept.insert(0, merge_base.clone());
        kept.truncate(MERGE_BASES);
        Ok(merge_base)
    }

    async fn pack(&self, used: &DeltaUse) -> Result<Arc<MergePack>, DeskError> {
        if let Some(known) = self.lock_packs().get(&used.delta_id) {
            return Ok(known);
        }
        let key = used.pack_key.as_deref().ok_or(DeskError::PackMissing(used.delta_id))?;
        let pack = Arc::new(read_pack(&self.storage, key).await?);
        self.lock_packs().put(used.delta_id, pack.clone(), pack.size_bytes());
        Ok(pack)
    }

    fn lock_packs(&self) -> std::sync::MutexGuard<'_, Lru<DeltaId, Arc<MergePack>>> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_bases(&self) -> std::sync::MutexGuard<'_, Vec<Arc<MergeBase>>> {
        self.merge_bases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a stored pack and checks it against the digest in its key.
///
/// # Errors
/// [`DeskError::Storage`] and [`DeskError::Damaged`].
pub(crate) async fn read_pack(storage: &Storage, key: &str) -> Result<MergePack, DeskError> {
    let bytes = storage.read(&StorageKey::stored(key)).await?;
    let sha256 = data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes));
    if !key.contains(&sha256) {
        return Err(damaged(key, format!("its bytes have the SHA-256 {sha256:.12}")));
    }
    MergePack::from_safetensors(&bytes).map_err(|error| damaged(key, error))
}

fn damaged(key: &str, reason: impl Into<Reason>) -> DeskError {
    DeskError::Damaged { key: key.to_owned(), source: reason.into() }
}

impl std::fmt::Debug for MergeDesk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MergeDesk")
            .field("base_digest", &self.kit.base_digest)
            .finish_non_exhaustive()
    }
}
