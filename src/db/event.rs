//! Table `job_event`: what happened to a job, in order; written by the schema with every change of a job.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::JobId;
use crate::domain::job::{Failure, JobEvent, JobState, JobStatus, Phase, Progress};

/// How long events that only report progress are kept at least.
pub const PROGRESS_IS_KEPT: Duration = Duration::from_secs(3600);

/// Events that [`forget`] deletes in one statement.
const FORGOTTEN_AT_ONCE: i64 = 5000;

/// Deletes events that only report progress and are older than [`PROGRESS_IS_KEPT`], some at a time; returns how many.
/// The newest event of a job stays. Several processes may do this at once.
///
/// The numbers of the others stay as they are, so a stream goes on behind a number whose event is gone.
pub async fn forget(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    let deleted = sqlx::query!(
        "
        delete from job_event where (job_id, seq) in (
            select job_id, seq from job_event
            where only_progress and created_at < now() - make_interval(secs => $1)
                and seq < (select revision from job where job.job_id = job_event.job_id)
            order by created_at
            limit $2
            for update skip locked
        )
        ",
        PROGRESS_IS_KEPT.as_secs_f64(),
        FORGOTTEN_AT_ONCE,
    )
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}

struct EventRow {
    job_id: JobId,
    seq: i64,
    state: JobState,
    cancel_requested: bool,
    phase: Option<Phase>,
    progress: Option<Json<Progress>>,
    error: Option<Json<Failure>>,
    created_at: DateTime<Utc>,
}

impl From<EventRow> for JobEvent {
    fn from(row: EventRow) -> Self {
        Self {
            seq: row.seq,
            status: JobStatus::new(row.state, row.cancel_requested),
            phase: row.phase,
            progress: row.progress.map(|progress| progress.0),
            error: row.error.map(|error| error.0),
            created_at: row.created_at,
        }
    }
}

/// Lists up to `limit` events of a job after number `seq`, oldest first.
pub async fn after(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    seq: i64,
    limit: i64,
) -> sqlx::Result<Vec<JobEvent>> {
    let rows = sqlx::query_as!(
        EventRow,
        r#"
        select job_id as "job_id: JobId", seq, state as "state: JobState", cancel_requested, phase as "phase: Phase",
            progress as "progress: Json<Progress>", error as "error: Json<Failure>", created_at
        from job_event
        where job_id = $1 and seq > $2
        order by seq
        limit $3
        "#,
        job_id.0,
        seq,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(JobEvent::from).collect())
}

/// Lists the events of several jobs, of each those after a number, oldest first.
pub async fn after_each(
    db: impl PgExecutor<'_>,
    jobs: &[(JobId, i64)],
) -> sqlx::Result<HashMap<JobId, Vec<JobEvent>>> {
    let ids: Vec<JobId> = jobs.iter().map(|(job_id, _)| *job_id).collect();
    let after: Vec<i64> = jobs.iter().map(|(_, seq)| *seq).collect();
    let rows = sqlx::query_as!(
        EventRow,
        r#"
        select job_id as "job_id: JobId", job_event.seq, state as "state: JobState", cancel_requested, phase as "phase: Phase",
            progress as "progress: Json<Progress>", error as "error: Json<Failure>", created_at
        from job_event join unnest($1::uuid[], $2::bigint[]) as known (job_id, seq) using (job_id)
        where job_event.seq > known.seq
        order by job_id, job_event.seq
        "#,
        &ids as &[JobId],
        &after,
    )
    .fetch_all(db)
    .await?;
    let mut of_each: HashMap<JobId, Vec<JobEvent>> = HashMap::new();
    for row in rows {
        of_each.entry(row.job_id).or_default().push(row.into());
    }
    Ok(of_each)
}
