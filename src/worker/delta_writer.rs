//! New deltas: their objects, the rows that refer to them, and then what merges need of them.
//!
//! A delta may have taken hours. It is written and recorded before anything else is made from it, so that it is not lost if
//! that fails or ends the worker.

use bytes::Bytes;
use serde::Serialize;

use super::context::Context;
use super::error::JobError;
use super::job::Job;
use crate::db;
use crate::db::delta::NewDelta;
use crate::domain::delta::Delta;
use crate::domain::digest::Digest;
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::promotion::{Promote, Promoter};

/// A new delta, and what is recorded with it.
pub(crate) struct Product<'a, R> {
    pub(crate) file: Bytes,
    pub(crate) base_digest: &'a Digest,
    /// What the delta contains.
    pub(crate) concepts: &'a [ConceptId],
    /// The concepts whose current delta it becomes, and when.
    pub(crate) current_of: &'a [ConceptId],
    pub(crate) promote: Promote,
    /// What the job has found out.
    pub(crate) report: Option<&'a R>,
}

/// Writes a delta's file under a key of the job and its fence, and records it. Both are done patiently.
///
/// # Errors
/// [`JobError::LeaseLost`] if another worker has the job: then nothing is recorded.
pub(crate) async fn store<R: Serialize + Sync>(
    job: &Job,
    product: Product<'_, R>,
) -> Result<Delta, JobError> {
    let Job { context, lease, .. } = job;
    let (size_bytes, sha256) = (product.file.len() as i64, Digest::of(&product.file));
    let write = || async {
        Ok(context.deltas.write_delta(lease.job_id, lease.fence, product.file.clone()).await?)
    };
    let key = job.patiently("writing the delta", write).await?;
    let delta_id = DeltaId::generate();
    let record = || async {
        match recorded(job).await? {
            // By a transaction whose answer was lost.
            Some(delta) => Ok(delta),
            None => {
                let row = NewDelta {
                    delta_id,
                    job_id: lease.job_id,
                    base_digest: product.base_digest,
                    storage_key: key.as_str(),
                    size_bytes,
                    sha256: &sha256,
                };
                record(job, &product, row).await?;
                recorded(job).await?.ok_or(JobError::LeaseLost)
            }
        }
    };
    job.patiently("recording the delta", record).await
}

async fn record<R: Serialize + Sync>(
    job: &Job,
    product: &Product<'_, R>,
    row: NewDelta<'_>,
) -> Result<(), JobError> {
    let Job { context, lease, .. } = job;
    let delta_id = row.delta_id;
    let mut tx = context.db.begin().await?;
    if !db::job::hold(&mut *tx, lease.job_id, lease.fence).await? {
        return Err(JobError::LeaseLost);
    }
    db::delta::record(&mut *tx, row).await?;
    db::delta::record_concepts(&mut *tx, delta_id, product.concepts).await?;
    if product.promote != Promote::Never && !product.current_of.is_empty() {
        let only_first = product.promote == Promote::Auto;
        let (concepts, promoter) = (product.current_of, Promoter::Job);
        db::promotion::promote(&mut *tx, concepts, delta_id, promoter, only_first).await?;
    }
    if let Some(ago) = job.progress.since_first_step() {
        db::job::note_first_step(&mut *tx, lease.job_id, lease.fence, ago).await?;
    }
    if let Some(report) = product.report {
        db::report::record(&mut *tx, lease.job_id, report, None).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The delta that the job has recorded, here or on a worker that was lost after it.
pub(crate) async fn recorded(job: &Job) -> Result<Option<Delta>, JobError> {
    let db = &job.context.db;
    let made = db::delta::of_jobs(db, &[job.lease.job_id]).await?;
    let ids: Vec<DeltaId> = made.into_iter().map(|(_, delta_id)| delta_id).collect();
    Ok(db::delta::find_for_worker(db, &ids).await?.into_iter().next())
}

/// The same, while the database may be away.
pub(crate) async fn recorded_patiently(job: &Job) -> Result<Option<Delta>, JobError> {
    job.patiently("looking for the delta", || async { recorded(job).await }).await
}

/// Makes what merges need of a delta that is safe by now. What fails is logged and noted beside the delta; the next start of
/// a worker, or the first merge, tries again.
pub(crate) async fn prepare_for_merges(context: &Context, delta: &Delta) {
    if delta.pack_key.is_none() {
        let made = context.make_pack(delta).await;
        if let Err(error) = made.map(drop) {
            note_missing_pack(context, delta.delta_id, &error).await;
        }
    }
    if let Err(error) = context.default_statistics().await {
        tracing::warn!(%error, reason = error.failure().detail, "merges over the class images' captions cannot be solved");
    }
}

/// Logs why a delta has no pack, and notes it for those who want to merge the delta.
pub(super) async fn note_missing_pack(context: &Context, delta_id: DeltaId, error: &JobError) {
    let reason = error.failure().detail;
    tracing::warn!(delta.id = %delta_id, %error, reason, "the delta has no merge pack");
    if let Err(error) = db::delta::note_pack_error(&context.db, delta_id, &reason).await {
        tracing::warn!(delta.id = %delta_id, %error, "that could not be noted");
    }
}
