//! Jobs that have missed a deadline.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::JobId;
use crate::domain::job::schedule::Deadline;
use crate::domain::job::{Failure, JobKind, JobState};

/// A job that has missed a deadline.
#[derive(Clone, Copy, Debug)]
pub struct OverdueJob {
    pub job_id: JobId,
    pub kind: JobKind,
    pub deadline: Deadline,
}

/// Lists up to `limit` jobs that have missed a deadline. An evaluation has started when one of its samples has.
pub async fn overdue(db: impl PgExecutor<'_>, limit: i64) -> sqlx::Result<Vec<OverdueJob>> {
    struct OverdueRow {
        job_id: JobId,
        kind: JobKind,
        start_before: Option<DateTime<Utc>>,
        finish_before: Option<DateTime<Utc>>,
    }
    let rows = sqlx::query_as!(
        OverdueRow,
        r#"
        select job_id as "job_id!: JobId", kind as "kind!: JobKind", start_before, finish_before
        from (
            select job_id, kind, null::timestamptz as start_before, finish_before from job
            where state in ('queued', 'running') and finish_before <= now()
            union all
            select job_id, kind, start_before, null from job
            where state = 'queued' and start_before <= now() and started_at is null and not exists (
                select from evaluation_sample join job as sample on sample.job_id = sample_id
                where evaluation_id = job.job_id and sample.started_at is not null
            )
        ) as overdue
        limit $1
        "#,
        limit,
    )
    .fetch_all(db)
    .await?;
    let overdue = rows.into_iter().filter_map(|row| {
        let finish = row.finish_before.map(Deadline::Finish);
        let deadline = finish.or(row.start_before.map(Deadline::Start))?;
        Some(OverdueJob { job_id: row.job_id, kind: row.kind, deadline })
    });
    Ok(overdue.collect())
}

/// Fails a job that has missed a deadline, or cancels it if that was asked for. If a worker has it, nothing that this worker
/// still writes counts. Returns the job's new state, or `None` if it has ended or started in the meantime.
pub async fn fail_overdue(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    failure: &Failure,
) -> sqlx::Result<Option<JobState>> {
    sqlx::query_scalar!(
        r#"
        update job
        set state = case when cancel_requested then 'canceled' else 'failed' end,
            error = case when not cancel_requested then $2::jsonb end,
            lease_expires_at = null, finished_at = now()
        where job_id = $1 and state in ('queued', 'running')
            and (finish_before <= now() or state = 'queued' and started_at is null and start_before <= now())
        returning state as "state: JobState"
        "#,
        job_id.0,
        Json(failure) as Json<&Failure>,
    )
    .fetch_optional(db)
    .await
}
