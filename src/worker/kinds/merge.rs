//! Merges: from the packs of deltas to one that holds all their concepts.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::db;
use crate::db::delta::NewDelta;
use crate::domain::id::{DeltaId, JobId};
use crate::domain::job::Phase;
use crate::domain::merge::{MergeRecipe, MergeTask};
use crate::engine::Result as EngineResult;
use crate::engine::custom_diffusion::delta::Delta;
use crate::engine::custom_diffusion::merge::{Merge, PackUse};
use crate::engine::custom_diffusion::merge_base::MergeBase;
use crate::engine::custom_diffusion::pack::MergePack;
use crate::storage::{Storage, StorageKey};
use crate::worker::engine::Engine;
use crate::worker::error::JobError;
use crate::worker::job::JobContext;

/// Merges the deltas and records the result.
#[tracing::instrument(skip_all, fields(job.id = %job.job_id))]
pub(crate) async fn run(job: &JobContext, task: MergeTask) -> Result<(), JobError> {
    job.check_base(&task.base_digest)?;
    job.enter(Phase::Fetching);
    let packs = job.worker.packs.read(&job.worker, &task.deltas).await?;

    job.enter(Phase::Merging);
    let recipe = task.recipe;
    let merged = job.worker.gpu.run_quick(move |engine| {
        let merge = solve(engine, &packs, &recipe)?;
        let merged = merge.to_delta(&engine.base, &recipe)?;
        Packed::new(engine, &merged, recipe.captions.as_deref())
    });
    let merged = merged.await??;
    job.enter(Phase::Storing);
    job.check()?;

    let stored = store_delta(job, merged).await?;
    let mut tx = job.worker.db.begin().await?;
    if !db::job::succeed(&mut *tx, job.job_id, job.fence).await? {
        return Err(JobError::LeaseLost);
    }
    db::delta::record(&mut *tx, stored.row(&task.base_digest)).await?;
    db::delta::record_concepts(&mut *tx, stored.delta_id, &task.concepts).await?;
    tx.commit().await?;
    Ok(())
}

/// Solves for several deltas over the captions of the recipe.
pub(crate) fn solve(
    engine: &Engine,
    packs: &[PackUse],
    recipe: &MergeRecipe,
) -> EngineResult<Merge> {
    let merge_base = engine.merge_base(recipe.captions.as_deref())?;
    Merge::new(&merge_base, packs, recipe)
}

/// A delta's file and what later merges need of it.
pub(crate) struct Packed {
    file: Vec<u8>,
    pack: MergePack,
    /// What the service needs beside packs to say how deltas go together.
    merge_base: Option<Arc<MergeBase>>,
}

impl Packed {
    /// - `captions`: those of the merge that made the delta
    pub(crate) fn new(
        engine: &Engine,
        delta: &Delta,
        captions: Option<&[String]>,
    ) -> EngineResult<Self> {
        let file = delta.to_safetensors()?;
        // Of the delta as whoever reads the file has it.
        let pack = MergePack::build(&engine.base, &Delta::from_safetensors(&file)?, 1.0)?;
        let encoded = captions.is_some() || engine.has_captions();
        let merge_base = encoded.then(|| engine.merge_base(captions)).transpose()?;
        Ok(Self { file, pack, merge_base })
    }
}

/// A delta whose objects are written and whose row is not.
pub(crate) struct StoredDelta {
    pub(crate) delta_id: DeltaId,
    job_id: JobId,
    key: StorageKey,
    size_bytes: i64,
    sha256: String,
    pack_key: StorageKey,
}

impl StoredDelta {
    pub(crate) fn row<'a>(&'a self, base_digest: &'a str) -> NewDelta<'a> {
        NewDelta {
            delta_id: self.delta_id,
            job_id: self.job_id,
            base_digest,
            storage_key: self.key.as_str(),
            size_bytes: self.size_bytes,
            sha256: &self.sha256,
            pack_key: Some(self.pack_key.as_str()),
        }
    }
}

/// Writes a delta and its pack under keys of its job and fence.
pub(crate) async fn store_delta(job: &JobContext, packed: Packed) -> Result<StoredDelta, JobError> {
    let storage = &job.worker.storage;
    if let Some(merge_base) = &packed.merge_base {
        store_merge_base(storage, merge_base).await?;
    }
    let pack_key = store_pack(storage, job.job_id, job.fence, &packed.pack).await?;
    let bytes = packed.file;
    let key = StorageKey::delta(job.job_id, job.fence);
    let stored = StoredDelta {
        delta_id: DeltaId::generate(),
        job_id: job.job_id,
        size_bytes: bytes.len() as i64,
        sha256: sha256_hex(&bytes),
        key,
        pack_key,
    };
    storage.write(&stored.key, bytes).await?;
    Ok(stored)
}

/// Writes the pack of a job's delta.
pub(crate) async fn store_pack(
    storage: &Storage,
    job_id: JobId,
    fence: i64,
    pack: &MergePack,
) -> Result<StorageKey, JobError> {
    let bytes = pack.to_safetensors()?;
    let key = StorageKey::pack(job_id, fence, &sha256_hex(&bytes));
    storage.write(&key, bytes).await?;
    Ok(key)
}

/// Writes what a base model's merges have in common, unless it is there: its key says all that it depends on.
pub(crate) async fn store_merge_base(
    storage: &Storage,
    merge_base: &MergeBase,
) -> Result<(), JobError> {
    let key = StorageKey::merge_base(&merge_base.base_digest, &merge_base.captions_digest);
    if storage.read_if_there(&key).await?.is_none() {
        storage.write(&key, merge_base.to_safetensors()?).await?;
    }
    Ok(())
}

fn sha256_hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}
