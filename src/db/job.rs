//! Table `job`: the queue, and the record of all work.
//!
//! A worker holds a job by a lease, not by an open transaction. Each lease has a number, the fence. Whatever a worker
//! writes names its fence, so a worker that has lost its lease without noticing changes nothing.

mod deadline;
mod ended;
mod enqueue;
mod forecast;
mod lease;
mod list;
mod load;
mod recovery;
mod state;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::{JobId, ProjectId};
use crate::domain::job::schedule::Priority;
use crate::domain::job::{Failure, Job, JobKind, JobState, JobStatus, Phase, Progress, Task};
use crate::domain::merge::MergeReport;
use crate::domain::record::{ExternalId, Labels, Metadata};
use crate::domain::warning::Warning;

pub use deadline::{OverdueJob, fail_overdue, overdue};
pub use ended::has_succeeded;
pub use enqueue::{NewJob, announce, count_queued, enqueue, enqueue_all, rate, take_turn};
pub use forecast::load;
pub use lease::{
    Capacity, fail, hand_back, hold, lease_next, note_first_step, record_merge_report, renew_lease,
    report, retry, rewrite_task, stop, succeed,
};
pub use list::{JobFilter, list};
pub use load::{Load, loads};
pub use recovery::{
    ExpiredJob, TakenBack, expire_leases, lock_expired, server_is_up_for, take_back,
    take_reapers_turn,
};

pub use state::{Standing, lock_revision, standing, standings};

/// The channel that notifies idle workers of new jobs, by kind.
pub const QUEUED_CHANNEL: &str = "job_queued";

struct JobRow {
    job_id: JobId,
    task: Json<Task>,
    state: JobState,
    cancel_requested: bool,
    priority: i16,
    attempts: i32,
    phase: Option<Phase>,
    progress: Option<Json<Progress>>,
    error: Option<Json<Failure>>,
    merge_report: Option<Json<MergeReport>>,
    warnings: Json<Vec<Warning>>,
    queue_position: Option<i64>,
    revision: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    start_before: Option<DateTime<Utc>>,
    finish_before: Option<DateTime<Utc>>,
    first_step_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    metadata: Json<Metadata>,
    external_id: Option<ExternalId>,
}

impl From<JobRow> for Job {
    fn from(mut row: JobRow) -> Self {
        let mut warnings = row.warnings.0;
        if let Task::Sample(task) = &mut row.task.0 {
            warnings.append(&mut task.warnings); // where earlier versions kept them
        }
        Self {
            job_id: row.job_id,
            task: row.task.0,
            state: row.state,
            cancel_requested: row.cancel_requested,
            priority: Priority::from_rank(row.priority),
            attempts: row.attempts,
            phase: row.phase,
            progress: row.progress.map(|progress| progress.0),
            error: row.error.map(|error| error.0),
            merge_report: row.merge_report.map(|report| report.0),
            warnings,
            previous_attempts: Vec::new(),
            queue_position: row.queue_position,
            revision: row.revision,
            created_at: row.created_at,
            updated_at: row.updated_at,
            started_at: row.started_at,
            start_before: row.start_before,
            finish_before: row.finish_before,
            first_step_at: row.first_step_at,
            finished_at: row.finished_at,
            labels: Labels { metadata: row.metadata.0, external_id: row.external_id },
        }
    }
}

/// Returns the job of this id if it is of this project and kind.
pub async fn find(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    job_id: JobId,
    kind: JobKind,
) -> sqlx::Result<Option<Job>> {
    Ok(find_all(db, &[(job_id, project_id)], kind).await?.pop())
}

/// Returns those of several jobs that are of their projects and of this kind.
pub async fn find_all(
    db: impl PgExecutor<'_>,
    jobs: &[(JobId, ProjectId)],
    kind: JobKind,
) -> sqlx::Result<Vec<Job>> {
    let ids: Vec<JobId> = jobs.iter().map(|(job_id, _)| *job_id).collect();
    let projects: Vec<ProjectId> = jobs.iter().map(|(_, project_id)| *project_id).collect();
    let rows = sqlx::query_as!(
        JobRow,
        r#"
        select job_id as "job_id: JobId", task as "task: Json<Task>", state as "state: JobState", cancel_requested,
            priority, attempts, phase as "phase: Phase", progress as "progress: Json<Progress>",
            error as "error: Json<Failure>", merge_report as "merge_report: Json<MergeReport>",
            warnings as "warnings: Json<Vec<Warning>>", revision, created_at, updated_at, started_at,
            start_before, finish_before, first_step_at, finished_at,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId",
            case when state = 'queued' then (
                select count(*) from job as ahead
                where ahead.state = 'queued' and ahead.kind = job.kind
                    and (ahead.priority, ahead.virtual_finish, ahead.job_id)
                        < (job.priority, job.virtual_finish, job.job_id)
            ) end as queue_position
        from job
        where job_id = any($1) and kind = $3
            and (job_id, project_id) in (select * from unnest($1::uuid[], $2::uuid[]))
        "#,
        &ids as &[JobId],
        &projects as &[ProjectId],
        kind as JobKind,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Job::from).collect())
}

/// Asks a job to stop. A queued job ends at once, a running one at its next step. Returns its status, or `None` if
/// the project has no such job of this kind.
pub async fn cancel(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    job_id: JobId,
    kind: JobKind,
) -> sqlx::Result<Option<JobStatus>> {
    struct StateRow {
        state: JobState,
        cancel_requested: bool,
    }
    let row = sqlx::query_as!(
        StateRow,
        r#"
        update job
        set cancel_requested = cancel_requested or state in ('queued', 'running'),
            state = case when state = 'queued' then 'canceled' else state end,
            finished_at = case when state = 'queued' then now() else finished_at end
        where job_id = $1 and kind = $2 and project_id = $3
        returning state as "state: JobState", cancel_requested
        "#,
        job_id.0,
        kind as JobKind,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| JobStatus::new(row.state, row.cancel_requested)))
}
