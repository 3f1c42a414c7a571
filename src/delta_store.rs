//! Deltas, merge packs and regularization statistics: read from the object store once, checked, then shared.
//!
//! The API and the worker of one process use the same store. From what trainings and merges have stored, the API itself
//! answers how deltas go together and what their whole matrices are. It needs neither a device nor a job.

mod error;
mod read;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use crate::byte_cache::ByteCache;
use crate::counters::{DELTAS, MERGE_PACKS, MERGE_REPORTS, STATISTICS};
use crate::domain::delta_use::DeltaUse;
use crate::domain::digest::Digest;
use crate::domain::id::{DeltaId, JobId};
use crate::domain::merge::{MergeRecipe, MergeReport, PairReport};
use crate::engine::MergePack;
use crate::engine::{Delta, read_kv_weights};
use crate::engine::{Merge, PackUse};
use crate::engine::{RegularizationStatistics, captions_digest};
use crate::model_folder::ModelFolder;
use crate::storage::{Storage, StorageKey};

pub use self::error::DeltaStoreError;

use self::read::{damaged, read_delta, read_pack};

/// Memory for packs: about fifty of Stable Diffusion 1's size, a thousand of `tiny`'s.
const PACK_BYTES: usize = 128 * 1024 * 1024;
/// Memory for statistics: six sets of captions of a Stable Diffusion 1.
const STATISTICS_BYTES: usize = 64 * 1024 * 1024;
/// Memory for reports: some thousands of them.
const REPORT_BYTES: usize = 4 * 1024 * 1024;

/// What the store knows of the base model that is served.
#[derive(Clone, Debug, Default)]
pub struct BaseModelRef {
    pub digest: Digest,
    /// The digest of the captions that merges preserve unless a request gives others; `None` if there are none.
    pub captions_digest: Option<String>,
    /// Its folder, from which `to_k` and `to_v` are read when they are asked for.
    pub dir: PathBuf,
}

impl From<&ModelFolder> for BaseModelRef {
    fn from(folder: &ModelFolder) -> Self {
        Self {
            digest: folder.info.digest.clone(),
            captions_digest: folder.captions_digest(),
            dir: folder.dir.clone(),
        }
    }
}

/// The deltas, packs and statistics in the object store. Those that were used recently are also in memory.
#[derive(Clone)]
pub struct DeltaStore {
    storage: Storage,
    base: Arc<BaseModelRef>,
    deltas: Arc<ByteCache<DeltaId, Arc<Delta>>>,
    packs: Arc<ByteCache<PackId, Arc<MergePack>>>,
    /// By the digest of their captions.
    statistics: Arc<ByteCache<String, Arc<RegularizationStatistics>>>,
    /// By the JSON of deltas and recipe.
    reports: Arc<ByteCache<String, MergeReport>>,
}

/// A delta, and the bits of a strength.
type PackId = (DeltaId, u64);

impl DeltaStore {
    /// - `delta_bytes`: host memory for recently used deltas; packs and statistics are small and have budgets of their
    ///   own
    pub fn new(storage: Storage, base: BaseModelRef, delta_bytes: usize) -> Self {
        Self {
            storage,
            base: Arc::new(base),
            deltas: Arc::new(ByteCache::new(delta_bytes, &DELTAS)),
            packs: Arc::new(ByteCache::new(PACK_BYTES, &MERGE_PACKS)),
            statistics: Arc::new(ByteCache::new(STATISTICS_BYTES, &STATISTICS)),
            reports: Arc::new(ByteCache::new(REPORT_BYTES, &MERGE_REPORTS)),
        }
    }

    /// Host memory that deltas take, never more than their budget.
    pub fn used_bytes(&self) -> usize {
        self.deltas.used_bytes()
    }

    /// Solves a merge and says how well it goes, at once if it was asked before.
    ///
    /// # Errors
    /// [`DeltaStoreError`]; [`DeltaStoreError::Refused`] if the deltas cannot be merged by this recipe at all.
    pub async fn check(
        &self,
        deltas: &[DeltaUse],
        recipe: &MergeRecipe,
    ) -> Result<MergeReport, DeltaStoreError> {
        let Ok(key) = serde_json::to_string(&(deltas, recipe)) else {
            return self.solve(deltas, recipe).await;
        };
        let size_bytes = key.len();
        let solve = async || {
            let report = self.solve(deltas, recipe).await?;
            let size_bytes = size_bytes + size_of::<PairReport>() * report.pairs.len();
            Ok((report, size_bytes))
        };
        self.reports.get_or_make(key, solve).await
    }

    async fn solve(
        &self,
        deltas: &[DeltaUse],
        recipe: &MergeRecipe,
    ) -> Result<MergeReport, DeltaStoreError> {
        let missing = async || Err(DeltaStoreError::CaptionsNotEncoded);
        let statistics = self.statistics_or(recipe.captions.as_deref(), missing).await?;
        let mut packs = Vec::new();
        for used in deltas {
            let missing = async || Err(DeltaStoreError::PackMissing(used.delta_id));
            packs.push(PackUse {
                pack: self.pack_or(used, missing).await?,
                strength: used.strength,
            });
        }
        let recipe = recipe.clone();
        let solved = tokio::task::spawn_blocking(move || {
            Merge::new(&statistics, &packs, &recipe)?.report(&statistics, &recipe)
        });
        Ok(solved.await.map_err(|_| DeltaStoreError::Panicked)??)
    }

    /// The file of a delta with whole matrices, from its own file.
    ///
    /// # Errors
    /// [`DeltaStoreError::Refused`] for a delta of another base model, [`DeltaStoreError::Damaged`] for a file that is not
    /// as it was written.
    pub async fn dense(
        &self,
        key: &StorageKey,
        sha256: &Digest,
    ) -> Result<Vec<u8>, DeltaStoreError> {
        let bytes = self.storage.read_checked(key, sha256).await?;
        let key = key.clone();
        let base = self.base.clone();
        let dense = tokio::task::spawn_blocking(move || {
            let damaged = |error| damaged(&key, error);
            let delta = Delta::from_safetensors(&bytes).map_err(damaged)?;
            if delta.base_digest != base.digest.as_str() {
                let text = "it was made for another base model than the one that is served";
                return Err(DeltaStoreError::Refused(text.to_owned()));
            }
            Ok(delta.to_dense(&read_kv_weights(&base.dir)?)?.to_safetensors()?)
        });
        dense.await.map_err(|_| DeltaStoreError::Panicked)?
    }

    /// A delta that a task names, checked against its digest.
    pub(crate) async fn delta(&self, used: &DeltaUse) -> Result<Arc<Delta>, DeltaStoreError> {
        let read = async || {
            let delta = Arc::new(read_delta(&self.storage, used).await?);
            let size_bytes = delta.size_bytes();
            Ok((delta, size_bytes))
        };
        self.deltas.get_or_make(used.delta_id, read).await
    }

    /// The pack of a delta at its whole strength, as it is stored, or what `build` makes where none is.
    pub(crate) async fn pack_or<E: From<DeltaStoreError>>(
        &self,
        used: &DeltaUse,
        build: impl AsyncFnOnce() -> Result<MergePack, E>,
    ) -> Result<Arc<MergePack>, E> {
        let read_or_build = async || match &used.pack_key {
            Some(key) => Ok(read_pack(&self.storage, key).await?),
            // A delta from before packs were stored beside them.
            None => build().await,
        };
        self.pack(used.delta_id, 1.0, read_or_build).await
    }

    /// The pack of a delta at a strength, which `build` makes unless it was used before.
    pub(crate) async fn pack<E: From<DeltaStoreError>>(
        &self,
        delta_id: DeltaId,
        strength: f64,
        build: impl AsyncFnOnce() -> Result<MergePack, E>,
    ) -> Result<Arc<MergePack>, E> {
        let make = async || {
            let pack = Arc::new(build().await?);
            let size_bytes = pack.size_bytes();
            Ok((pack, size_bytes))
        };
        self.packs.get_or_make((delta_id, strength.to_bits()), make).await
    }

    /// The regularization statistics over these captions, those of the class images if none are given: as they are stored,
    /// or what `compute` makes of the captions, which is stored then.
    pub(crate) async fn statistics_or<E: From<DeltaStoreError>>(
        &self,
        captions: Option<&[String]>,
        compute: impl AsyncFnOnce() -> Result<RegularizationStatistics, E>,
    ) -> Result<Arc<RegularizationStatistics>, E> {
        let digest = match captions {
            Some(captions) => captions_digest(captions),
            None => match &self.base.captions_digest {
                Some(digest) => digest.clone(),
                // Over no captions at all there is nothing to store or to keep.
                None => return Ok(Arc::new(compute().await?)),
            },
        };
        let key = StorageKey::regularization_statistics(&self.base.digest, &digest);
        let make = async || {
            let (statistics, size_bytes) = match self.read_statistics(&key).await? {
                Some(stored) => stored,
                None => self.write_statistics(&key, compute().await?).await?,
            };
            Ok((Arc::new(statistics), size_bytes))
        };
        self.statistics.get_or_make(digest, make).await
    }

    /// Writes a delta's file under a key of its job and fence; returns the key.
    pub(crate) async fn write_delta(
        &self,
        job_id: JobId,
        fence: i64,
        file: Bytes,
    ) -> Result<StorageKey, DeltaStoreError> {
        let key = StorageKey::delta(job_id, fence);
        self.storage.write(&key, file).await?;
        Ok(key)
    }

    /// Writes the pack of a job's delta; returns its key.
    pub(crate) async fn write_pack(
        &self,
        job_id: JobId,
        fence: i64,
        pack: &MergePack,
    ) -> Result<StorageKey, DeltaStoreError> {
        let bytes = pack.to_safetensors()?;
        let key = StorageKey::pack(job_id, fence, &Digest::of(&bytes));
        self.storage.write(&key, bytes).await?;
        Ok(key)
    }

    async fn read_statistics(
        &self,
        key: &StorageKey,
    ) -> Result<Option<(RegularizationStatistics, usize)>, DeltaStoreError> {
        let Some(bytes) = self.storage.read_if_there(key).await? else { return Ok(None) };
        let statistics = RegularizationStatistics::from_safetensors(&bytes);
        Ok(Some((statistics.map_err(|error| damaged(key, error))?, bytes.len())))
    }

    async fn write_statistics(
        &self,
        key: &StorageKey,
        statistics: RegularizationStatistics,
    ) -> Result<(RegularizationStatistics, usize), DeltaStoreError> {
        let bytes = statistics.to_safetensors()?;
        let size_bytes = bytes.len();
        // They follow from the captions: whoever computes them again may write them again.
        self.storage.replace(key, bytes).await?;
        Ok((statistics, size_bytes))
    }
}

impl std::fmt::Debug for DeltaStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeltaStore")
            .field("base_digest", &self.base.digest)
            .field("used_bytes", &self.used_bytes())
            .finish_non_exhaustive()
    }
}
