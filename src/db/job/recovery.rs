//! Jobs whose workers were lost.

use std::time::Duration;

use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::JobId;
use crate::domain::job::{Failure, JobKind, JobState};

/// More elements than any worker's batch has. A job that costs this much is leased last, and no other with it.
const ALONE: i32 = 1 << 20;

/// A running job whose lease has run out.
#[derive(Clone, Debug)]
pub struct ExpiredJob {
    pub job_id: JobId,
    pub kind: JobKind,
    pub worker: Option<String>,
    pub attempts: i32,
    pub barren_attempts: i32,
    pub max_attempts: i32,
}

/// How a job goes on whose worker was lost.
#[derive(Clone, Debug)]
pub struct TakenBack {
    pub job_id: JobId,
    /// Why its attempt ended.
    pub reason: Failure,
    /// Why the job ends; `None` if it has attempts left.
    pub failure: Option<Failure>,
    /// How long it waits for its next attempt.
    pub delay: Duration,
}

/// Claims the right to look after lost jobs for the rest of a transaction. Returns whether nobody else has it.
pub async fn take_reapers_turn(db: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select pg_try_advisory_xact_lock(hashtext('job queue'), hashtext('reaper')) as "taken!""#
    )
    .fetch_one(db)
    .await
}

/// Whether the server has been up for this long. Before, leases may have run out because nobody could renew them.
pub async fn server_is_up_for(db: impl PgExecutor<'_>, duration: Duration) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select clock_timestamp() - pg_postmaster_start_time() >= make_interval(secs => $1) as "up!""#,
        duration.as_secs_f64(),
    )
    .fetch_one(db)
    .await
}

/// Locks up to `limit` jobs whose leases have run out.
pub async fn lock_expired(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<ExpiredJob>> {
    sqlx::query_as!(
        ExpiredJob,
        r#"
        select job_id as "job_id: JobId", kind as "kind: JobKind", worker, attempts, barren_attempts, max_attempts
        from job where state = 'running' and lease_expires_at < now()
        order by lease_expires_at limit $1
        for update skip locked
        "#,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Takes jobs back from workers that were lost: they are queued again, or end. Those that were asked to stop are canceled.
/// Returns each with its new state.
///
/// One of them may have killed its worker. From now on each runs alone, so that it cannot use up the attempts of the
/// jobs that shared a batch with it.
pub async fn take_back(
    db: impl PgExecutor<'_>,
    jobs: &[TakenBack],
) -> sqlx::Result<Vec<(JobId, JobState)>> {
    let rows = sqlx::query!(
        r#"
        update job
        set lease_expires_at = null, phase = null, rows = $5, attempt_error = lost.reason,
            state = case
                when cancel_requested then 'canceled' when lost.failure is null then 'queued' else 'failed'
            end,
            progress = case when cancel_requested or lost.failure is not null then progress end,
            error = case when not cancel_requested then lost.failure end,
            run_at = now() + make_interval(secs => lost.delay),
            finished_at = case when cancel_requested or lost.failure is not null then now() end
        from unnest($1::uuid[], $2::jsonb[], $3::jsonb[], $4::float8[]) as lost (job_id, reason, failure, delay)
        where job.job_id = lost.job_id
        returning job.job_id as "job_id: JobId", job.state as "state: JobState"
        "#,
        &jobs.iter().map(|job| job.job_id.0).collect::<Vec<_>>(),
        &jobs.iter().map(|job| Json(&job.reason)).collect::<Vec<_>>() as &[Json<&Failure>],
        &jobs.iter().map(|job| job.failure.as_ref().map(Json)).collect::<Vec<_>>()
            as &[Option<Json<&Failure>>],
        &jobs.iter().map(|job| job.delay.as_secs_f64()).collect::<Vec<_>>(),
        ALONE,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.job_id, row.state)).collect())
}

/// Ends all leases. Only for a process that knows that no worker is left. Returns their number.
pub async fn expire_leases(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "update job set lease_expires_at = now() - interval '1 millisecond' where state = 'running'"
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
