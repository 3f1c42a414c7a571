//! Merges: from deltas in the store to one that holds all their concepts.

use sha2::{Digest, Sha256};

use super::error::JobError;
use super::job::JobContext;
use super::model::Engine;
use crate::db;
use crate::db::deltas::NewDelta;
use crate::domain::id::{DeltaId, JobId};
use crate::domain::job::Phase;
use crate::domain::merge::{MergeRecipe, MergeTask};
use crate::engine::conditioning::ConceptUse;
use crate::engine::custom_diffusion::delta::Delta;
use crate::engine::custom_diffusion::merge;
use crate::storage::StorageKey;

/// Merges the deltas and records the result.
#[tracing::instrument(skip_all, fields(job.id = %job.job_id))]
pub(crate) async fn run(job: &JobContext, task: MergeTask) -> Result<(), JobError> {
    job.check_base(&task.base_digest)?;
    job.enter(Phase::Fetching);
    let deltas = job.worker.deltas.read(&job.worker.storage, &task.deltas).await?;

    job.enter(Phase::Merging);
    let recipe = task.recipe;
    let merged =
        job.worker.gpu.run_quick(move |engine| merge_deltas(engine, &deltas, &recipe)).await??;
    job.enter(Phase::Storing);
    job.check()?;

    let stored = store_delta(job, &merged).await?;
    let mut tx = job.worker.db.begin().await?;
    if !db::jobs::succeed(&mut *tx, job.job_id, job.fence).await? {
        return Err(JobError::LeaseLost);
    }
    db::deltas::record(&mut *tx, stored.row(&task.base_digest)).await?;
    db::deltas::record_concepts(&mut *tx, stored.delta_id, &task.concepts).await?;
    tx.commit().await?;
    Ok(())
}

/// Solves for one delta.
pub(crate) fn merge_deltas(
    engine: &Engine,
    deltas: &[ConceptUse],
    recipe: &MergeRecipe,
) -> crate::engine::Result<Delta> {
    let merge_base = engine.merge_base()?;
    let (delta, diagnostics) =
        merge::merge(&engine.base, merge_base, deltas, recipe.constraint.weight())?;
    tracing::info!(?diagnostics, "merged {} deltas", deltas.len());
    Ok(delta)
}

/// A delta whose object is written and whose row is not.
pub(crate) struct StoredDelta {
    pub(crate) delta_id: DeltaId,
    job_id: JobId,
    key: StorageKey,
    size_bytes: i64,
    sha256: String,
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
        }
    }
}

/// Writes a delta under a key of its job and fence.
pub(crate) async fn store_delta(job: &JobContext, delta: &Delta) -> Result<StoredDelta, JobError> {
    let bytes = delta.to_safetensors()?;
    let key = StorageKey::delta(job.job_id, job.fence);
    let stored = StoredDelta {
        delta_id: DeltaId::generate(),
        job_id: job.job_id,
        size_bytes: bytes.len() as i64,
        sha256: data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)),
        key,
    };
    job.worker.storage.write(&stored.key, bytes).await?;
    Ok(stored)
}
