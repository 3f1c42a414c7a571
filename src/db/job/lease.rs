//! A worker's side of the queue: from lease to the end of a job.

use std::time::Duration;

use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::{JobId, ProjectId};
use crate::domain::job::{Failure, JobKind, JobState, LeasedJob, Phase, Progress, Task};
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
    /// Memory of the worker's device, if it is known. Jobs that need more are left to other workers.
    pub memory_mib: Option<i32>,
    /// Jobs are leased until they fill this many elements of a batch. The last one may exceed it.
    pub batch_elements: usize,
    pub lease: Duration,
}

/// Leases the first queued jobs that a worker can take, in their order.
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
        project_id: ProjectId,
        task: Json<Task>,
        batch_elements: i32,
        attempts: i32,
        barren_attempts: i32,
        fence: i64,
        request_id: Option<String>,
        traceparent: Option<String>,
        priority: i16,
        virtual_finish: f64,
    }
    let batch_elements = i64::try_from(capacity.batch_elements).unwrap_or(i64::MAX);
    let mut leased = sqlx::query_as!(
        LeasedRow,
        r#"
        with waiting as (
            select picked.job_id, picked.priority, picked.virtual_finish, picked.elements
            from unnest($2::text[]) as wanted (kind) cross join lateral (
                select job_id, priority, virtual_finish, rows as elements from job
                where state = 'queued' and job.kind = wanted.kind and needs_base = $4 and waits_for = 0
                    and run_at <= now() and task_version <= $6
                    and (needs_evaluator is null or needs_evaluator = $7) and needs_memory_mib <= $8
                    and (start_before is null or start_before > now() or started_at is not null
                        or job.kind = 'evaluation')
                    and (finish_before is null or finish_before > now())
                order by priority, virtual_finish, job_id limit $5
                for update skip locked
            ) as picked
            order by priority, virtual_finish, job_id limit $5
        ), summed as (
            select job_id, sum(elements) over (order by priority, virtual_finish, job_id) - elements as elements_before
            from waiting
        )
        update job
        set state = 'running', worker = $1, fence = fence + 1, attempts = attempts + 1,
            barren_attempts = barren_attempts + 1,
            lease_expires_at = now() + make_interval(secs => $3), phase = 'fetching', progress = null,
            started_at = coalesce(started_at, now()), attempt_started_at = now(), attempt_error = null,
            resumed_from_step = null, started_over = null
        where job_id in (select job_id from summed where elements_before < $5)
        returning job_id as "job_id: JobId", task as "task: Json<Task>", rows as batch_elements, attempts,
            project_id as "project_id: ProjectId", barren_attempts, fence, request_id, traceparent, priority,
            virtual_finish
        "#,
        capacity.worker,
        &capacity.kinds.iter().map(|kind| kind.as_str().to_owned()).collect::<Vec<_>>(),
        capacity.lease.as_secs_f64(),
        capacity.base_digest,
        batch_elements,
        i32::try_from(u32::from(TaskVersion::NEWEST)).unwrap_or(i32::MAX),
        capacity.evaluator_digest,
        capacity.memory_mib.unwrap_or(i32::MAX),
    )
    .fetch_all(db)
    .await?;
    leased.sort_by(|a, b| {
        let by_finish = a.virtual_finish.total_cmp(&b.virtual_finish);
        a.priority.cmp(&b.priority).then(by_finish).then(a.job_id.0.cmp(&b.job_id.0))
    });
    let leased = leased.into_iter().map(|row| LeasedJob {
        job_id: row.job_id,
        project_id: row.project_id,
        task: row.task.0,
        batch_elements: usize::try_from(row.batch_elements).unwrap_or(1),
        attempts: row.attempts,
        barren_attempts: row.barren_attempts,
        fence: row.fence,
        request_id: row.request_id,
        traceparent: row.traceparent,
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

/// Notes how long ago a job took its first step of training or denoising. The time is the database's: a worker's clock may be wrong.
pub async fn note_first_step(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    ago: Duration,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update job set first_step_at = greatest(started_at, now() - make_interval(secs => $3))
        where job_id = $1 and fence = $2",
        job_id.0,
        fence,
        ago.as_secs_f64(),
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

/// Ends an attempt that failed with an error that may pass. The job is queued again, or fails if it has no attempts left, or
/// is canceled if it was asked to stop. Returns its new state, or `None` if the lease is lost.
pub async fn retry(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    failure: &Failure,
    delay: Duration,
) -> sqlx::Result<Option<JobState>> {
    sqlx::query_scalar!(
        r#"
        update job
        set lease_expires_at = null, attempt_error = $3,
            state = next.state,
            phase = case when next.state <> 'queued' then phase end,
            progress = case when next.state <> 'queued' then progress end,
            error = case when next.state = 'failed' then $3::jsonb end,
            run_at = now() + make_interval(secs => $4),
            finished_at = case when next.state <> 'queued' then now() end
        from (select job_id, case
                when cancel_requested then 'canceled' when barren_attempts < max_attempts then 'queued' else 'failed'
            end as state
            from job where job_id = $1 and fence = $2 and state = 'running' for update
        ) as next
        where job.job_id = next.job_id
        returning job.state as "state: JobState"
        "#,
        job_id.0,
        fence,
        Json(failure) as Json<&Failure>,
        delay.as_secs_f64(),
    )
    .fetch_optional(db)
    .await
}

/// Returns a job to the queue because its worker shuts down, which does not count against its limit of attempts. Returns
/// whether the lease still held and the job has not been asked to stop.
pub async fn hand_back(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    reason: &Failure,
) -> sqlx::Result<bool> {
    let done = sqlx::query!(
        "update job set state = 'queued', lease_expires_at = null, phase = null, progress = null,
            barren_attempts = greatest(barren_attempts - 1, 0), attempt_error = $3
        where job_id = $1 and fence = $2 and state = 'running' and not cancel_requested",
        job_id.0,
        fence,
        Json(reason) as Json<&Failure>,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}
