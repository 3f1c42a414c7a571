//! Table `job_event`: what happened to a job, in order; written by the schema with every change of a job.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::JobId;
use crate::domain::job::{Failure, JobEvent, JobState, JobStatus, Phase, Progress};

/// Lists up to `limit` events of a job after number `seq`, oldest first.
pub async fn after(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    seq: i64,
    limit: i64,
) -> sqlx::Result<Vec<JobEvent>> {
    struct EventRow {
        seq: i64,
        state: JobState,
        cancel_requested: bool,
        phase: Option<Phase>,
        progress: Option<Json<Progress>>,
        error: Option<Json<Failure>>,
        created_at: DateTime<Utc>,
    }
    let rows = sqlx::query_as!(
        EventRow,
        r#"
        select seq, state as "state: JobState", cancel_requested, phase as "phase: Phase",
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
    let events = rows.into_iter().map(|row| JobEvent {
        seq: row.seq,
        status: JobStatus::new(row.state, row.cancel_requested),
        phase: row.phase,
        progress: row.progress.map(|progress| progress.0),
        error: row.error.map(|error| error.0),
        created_at: row.created_at,
    });
    Ok(events.collect())
}
