//! A worker's side of the queue: from lease to the end of a job.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::JobId;
use crate::domain::job::{Failure, JobKind, LeasedJob, Phase, Progress, Task};
use crate::domain::merge::MergeReport;
use crate::domain::version::TaskVersion;

/// The jobs that a worker can take.
#[derive(Clone, Copy, Debug)]
pub struct Capacity<'a> {
    /// The worker's name in the catalog.
    pub worker: &'a str,
    pub kinds: &'a [JobKind],
    /// Jobs for other base models are left to other workers.
    pub base_digest: &'a str,
    /// Evaluations for other evaluators are left to other workers; all of them, if this worker has none.
    pub evaluator_digest: Option<&'a str>,
    /// Jobs are leased until they fill this many elements of a batch. The last one may exceed it.
    pub batch_elements: usize,
    pub lease: Duration,
}

/// Leases the oldest queued jobs that a worker can take, in their order.
///
/// Kind by kind, so that the index of the queue has them in their order: with a list of kinds in one condition, all that
/// waits would be read and sorted.
///
/// A training takes long and a transaction must not, so a job is held by a lease that its worker renews. Tasks that a
/// newer version of the program has queued are left to its own workers.
pub async fn lease_next(
    db: impl PgExecutor<'_>,
    capacity: Capacity<'_>,
) -> sqlx::Result<Vec<LeasedJob>> {
    struct LeasedRow {
        job_id: JobId,
        task: Json<Task>,
        batch_elements: i32,
        attempts: i32,
        fence: i64,
    }
    let batch_elements = i64::try_from(capacity.batch_elements).unwrap_or(i64::MAX);
    let mut leased = sqlx::query_as!(
        LeasedRow,
        r#"
        with waiting as (
            select picked.job_id, picked.priority, picked.elements
            from unnest($2::text[]) as wanted (kind) cross join lateral (
                select job_id, priority, rows as elements from job
                where state = 'queued' and job.kind = wanted.kind and task ->> 'base_digest' = $4 and waits_for = 0
                    and run_at <= now() and coalesce((task ->> 'version')::int, 1) <= $6
                    and (task ->> 'evaluator_digest' is null or task ->> 'evaluator_digest' = $7)
                order by priority, job_id limit $5
                for update skip locked
            ) as picked
            order by priority, job_id limit $5
        ), summed as (
            select job_id, sum(elements) over (order by priority, job_id) - elements as elements_before
            from waiting
        )
        update job
        set state = 'running', worker = $1, attempts = attempts + 1, fence = fence + 1,
            lease_expires_at = now() + make_interval(secs => $3), phase = 'fetching', progress = null,
            started_at = coalesce(started_at, now())
        where job_id in (select job_id from summed where elements_before < $5)
        returning job_id as "job_id: JobId", task as "task: Json<Task>", rows as batch_elements, attempts, fence
        "#,
        capacity.worker,
        &capacity.kinds.iter().map(|kind| kind.as_str().to_owned()).collect::<Vec<_>>(),
        capacity.lease.as_secs_f64(),
        capacity.base_digest,
        batch_elements,
        i32::try_from(u32::from(TaskVersion::NEWEST)).unwrap_or(i32::MAX),
        capacity.evaluator_digest,
    )
    .fetch_all(db)
    .await?;
    leased.sort_by_key(|row| row.job_id.0);
    let leased = leased.into_iter().map(|row| LeasedJob {
        job_id: row.job_id,
        task: row.task.0,
        batch_elements: usize::try_from(row.batch_elements).unwrap_or(1),
        attempts: row.attempts,
        fence: row.fence,
    });
    Ok(leased.collect())
}

/// Renews a lease and returns whether the job has been asked to stop, or `None` if the lease is lost.
pub async fn renew_lease(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    lease: Duration,
) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar!(
        "update job set lease_expires_at = now() + make_interval(secs => $3)
        where job_id = $1 and fence = $2 and state = 'running'
        returning cancel_requested",
        job_id.0,
        fence,
        lease.as_secs_f64(),
    )
    .fetch_optional(db)
    .await
}

/// Records how far a job is and renews its lease; returns whether the job has been asked to stop, or `None` if the
/// lease is lost.
pub async fn report(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    phase: Phase,
    progress: Option<&Progress>,
    lease: Duration,
) -> sqlx::Result<Option<bool>> {
    sqlx::query_scalar!(
        "update job set phase = $3, progress = $4, lease_expires_at = now() + make_interval(secs => $5)
        where job_id = $1 and fence = $2 and state = 'running'
        returning cancel_requested",
        job_id.0,
        fence,
        phase as Phase,
        progress.map(Json) as Option<Json<&Progress>>,
        lease.as_secs_f64(),
    )
    .fetch_optional(db)
    .await
}

/// Locks a job for the rest of a transaction. Returns whether the lease still holds; then nobody else can take it before the
/// transaction ends.
pub async fn hold(db: impl PgExecutor<'_>, job_id: JobId, fence: i64) -> sqlx::Result<bool> {
    let held = sqlx::query!(
        "select job_id from job where job_id = $1 and fence = $2 and state = 'running' for update",
        job_id.0,
        fence,
    )
    .fetch_optional(db)
    .await?;
    Ok(held.is_some())
}

/// Ends a job as succeeded. Returns whether the lease still held; otherwise nothing has changed.
pub async fn succeed(db: impl PgExecutor<'_>, job_id: JobId, fence: i64) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update job set state = 'succeeded', lease_expires_at = null, phase = null, finished_at = now()
        where job_id = $1 and fence = $2 and state = 'running'",
        job_id.0,
        fence,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes when a job took its first denoising step.
pub async fn note_first_step(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    first_step_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update job set first_step_at = $3 where job_id = $1 and fence = $2",
        job_id.0,
        fence,
        first_step_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Records how well a merge went.
pub async fn record_merge_report(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    report: &MergeReport,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update job set merge_report = $3 where job_id = $1 and fence = $2",
        job_id.0,
        fence,
        Json(report) as Json<&MergeReport>,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Replaces the task of a running job by one that says more, such as which set has been generated for it. Returns whether
/// the lease still held; otherwise nothing has changed.
pub async fn rewrite_task(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    task: &Task,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update job set task = $3 where job_id = $1 and fence = $2 and state = 'running'",
        job_id.0,
        fence,
        Json(task) as Json<&Task>,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends a job as failed. Returns whether the lease still held; otherwise nothing has changed.
pub async fn fail(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    failure: &Failure,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update job set state = 'failed', lease_expires_at = null, finished_at = now(), error = $3
        where job_id = $1 and fence = $2 and state = 'running'",
        job_id.0,
        fence,
        Json(failure) as Json<&Failure>,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends a job that was asked to stop. Returns whether the lease still held; otherwise nothing has changed.
pub async fn stop(db: impl PgExecutor<'_>, job_id: JobId, fence: i64) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update job set state = 'canceled', lease_expires_at = null, finished_at = now()
        where job_id = $1 and fence = $2 and state = 'running'",
        job_id.0,
        fence,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Queues a job again after an error that may pass, if it has attempts left; returns whether it was queued.
pub async fn retry(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    delay: Duration,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update job set state = 'queued', lease_expires_at = null, phase = null, progress = null,
            run_at = now() + make_interval(secs => $3)
        where job_id = $1 and fence = $2 and state = 'running' and attempts < max_attempts and not cancel_requested",
        job_id.0,
        fence,
        delay.as_secs_f64(),
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Returns a job to the queue because its worker shuts down; the attempt does not count. Returns whether the lease
/// still held.
pub async fn hand_back(db: impl PgExecutor<'_>, job_id: JobId, fence: i64) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update job set state = 'queued', lease_expires_at = null, phase = null, progress = null,
            attempts = attempts - 1
        where job_id = $1 and fence = $2 and state = 'running' and not cancel_requested",
        job_id.0,
        fence,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// More elements than any worker's batch has. A job that costs this much is leased last, and no other with it.
const ALONE: i32 = 1 << 20;

/// Recovers the jobs of workers that stopped renewing. They are queued again, or ended if they were asked to stop or
/// have no attempts left. Returns their number.
///
/// One of them may have killed its worker. From now on each runs alone, so that it cannot use up the attempts of the
/// jobs that shared a batch with it.
pub async fn recover_expired(db: impl PgExecutor<'_>, failure: &Failure) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "
        update job
        set lease_expires_at = null, phase = null, rows = $2,
            state = case
                when cancel_requested then 'canceled' when attempts < max_attempts then 'queued' else 'failed'
            end,
            error = case when not cancel_requested and attempts >= max_attempts then $1::jsonb end,
            finished_at = case when cancel_requested or attempts >= max_attempts then now() end
        where job_id in (
            select job_id from job where state = 'running' and lease_expires_at < now()
            for update skip locked
        )
        ",
        Json(failure) as Json<&Failure>,
        ALONE,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
