//! Table `checkpoint`: from where trainings can go on in another process.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use crate::domain::checkpoint::{Checkpoint, Resumption};
use crate::domain::id::JobId;
use crate::domain::storage_key::StorageKey;

/// Records a checkpoint whose object is written, and forgets all but the newest two. Returns the keys of those that it has
/// forgotten, or `None` if the lease is lost; then nothing has changed.
///
/// The job has got further, so the attempts before no longer count against its limit.
pub async fn record(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    checkpoint: &Checkpoint,
) -> sqlx::Result<Option<Vec<StorageKey>>> {
    let row = sqlx::query!(
        r#"
        with held as (
            update job set barren_attempts = 0
            where job_id = $1 and fence = $2 and state = 'running'
            returning job_id
        ), recorded as (
            insert into checkpoint
                (job_id, fence, step, storage_key, size_bytes, sha256, input_digest, engine_version, created_at)
            select job_id, $2, $3, $4, $5, $6, $7, $8, $9 from held
            on conflict (job_id, step) do update
            set fence = excluded.fence, storage_key = excluded.storage_key, size_bytes = excluded.size_bytes,
                sha256 = excluded.sha256, input_digest = excluded.input_digest,
                engine_version = excluded.engine_version, created_at = excluded.created_at
        ), forgotten as (
            delete from checkpoint using held
            where checkpoint.job_id = held.job_id and step < (
                select max(step) from checkpoint as before where before.job_id = $1 and before.step < $3
            )
            returning storage_key
        )
        select exists (select from held) as "held!",
            coalesce((select array_agg(storage_key) from forgotten), '{}') as "forgotten!"
        "#,
        job_id.0,
        fence,
        checkpoint.step,
        checkpoint.storage_key.as_str(),
        checkpoint.size_bytes,
        checkpoint.sha256.as_str(),
        checkpoint.input_digest.as_str(),
        checkpoint.engine_version,
        checkpoint.created_at,
    )
    .fetch_one(db)
    .await?;
    Ok(row.held.then(|| row.forgotten.into_iter().map(StorageKey::from).collect()))
}

/// A job's checkpoints, newest first.
pub async fn of_job(db: impl PgExecutor<'_>, job_id: JobId) -> sqlx::Result<Vec<Checkpoint>> {
    struct CheckpointRow {
        step: i32,
        storage_key: String,
        size_bytes: i64,
        sha256: String,
        input_digest: String,
        engine_version: String,
        created_at: DateTime<Utc>,
    }
    let rows = sqlx::query_as!(
        CheckpointRow,
        "select step, storage_key, size_bytes, sha256, input_digest, engine_version, created_at
        from checkpoint where job_id = $1 order by step desc",
        job_id.0,
    )
    .fetch_all(db)
    .await?;
    let checkpoints = rows.into_iter().map(|row| Checkpoint {
        step: row.step,
        storage_key: row.storage_key.into(),
        size_bytes: row.size_bytes,
        sha256: row.sha256.into(),
        input_digest: row.input_digest.into(),
        engine_version: row.engine_version,
        created_at: row.created_at,
    });
    Ok(checkpoints.collect())
}

/// Notes where a job goes on, and forgets the points of its loss curve and the checkpoints beyond. Returns the keys of those
/// checkpoints, or `None` if the lease is lost; then nothing has changed.
///
/// - `from`: the step; `None` for the beginning
/// - `started_over`: why it does not go on from a checkpoint
pub async fn note_resumption(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    from: Option<i32>,
    started_over: Option<&str>,
) -> sqlx::Result<Option<Vec<StorageKey>>> {
    let row = sqlx::query!(
        r#"
        with held as (
            update job set resumed_from_step = $3, started_over = $4
            where job_id = $1 and fence = $2 and state = 'running'
            returning job_id
        ), undone as (
            delete from job_metric using held
            where job_metric.job_id = held.job_id and step > coalesce($3, 0)
        ), forgotten as (
            delete from checkpoint using held
            where checkpoint.job_id = held.job_id and step > coalesce($3, 0)
            returning storage_key
        )
        select exists (select from held) as "held!",
            coalesce((select array_agg(storage_key) from forgotten), '{}') as "forgotten!"
        "#,
        job_id.0,
        fence,
        from,
        started_over,
    )
    .fetch_one(db)
    .await?;
    Ok(row.held.then(|| row.forgotten.into_iter().map(StorageKey::from).collect()))
}

/// How these jobs go on; a job that is no training has the default.
pub async fn resumptions(
    db: impl PgExecutor<'_>,
    jobs: &[JobId],
) -> sqlx::Result<Vec<(JobId, Resumption)>> {
    let rows = sqlx::query!(
        r#"
        select job_id as "job_id: JobId", resumed_from_step, started_over,
            (select max(step) from checkpoint where checkpoint.job_id = job.job_id) as checkpoint_step
        from job where job_id = any($1)
        "#,
        &jobs.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    let resumptions = rows.into_iter().map(|row| {
        let (resumed_from_step, started_over) = (row.resumed_from_step, row.started_over);
        let checkpoint_step = row.checkpoint_step;
        (row.job_id, Resumption { resumed_from_step, started_over, checkpoint_step })
    });
    Ok(resumptions.collect())
}

/// Up to `limit` checkpoints of jobs that have ended, which nobody needs any more.
pub async fn of_ended_jobs(
    db: impl PgExecutor<'_>,
    limit: i64,
) -> sqlx::Result<Vec<(JobId, StorageKey)>> {
    let rows = sqlx::query!(
        r#"
        select checkpoint.job_id as "job_id: JobId", storage_key
        from checkpoint join job using (job_id)
        where state in ('succeeded', 'failed', 'canceled')
        order by checkpoint.job_id, step
        limit $1
        "#,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.job_id, row.storage_key.into())).collect())
}

/// Forgets a checkpoint, by its key, whose object is gone.
pub async fn forget(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    storage_key: &StorageKey,
) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from checkpoint where job_id = $1 and storage_key = $2",
        job_id.0,
        storage_key.as_str(),
    )
    .execute(db)
    .await?;
    Ok(())
}
