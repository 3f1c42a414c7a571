//! What trainings, merges and samples have in common as jobs.

use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::body::Timestamp;
use super::error::{ApiError, problem_type};
use crate::db;
use crate::domain::id::JobId;
use crate::domain::job::{Failure, Job, JobKind, JobStatus, Phase, Progress, published_id};

/// Where a job stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobBody {
    status: JobStatus,
    /// What a running job is busy with.
    phase: Option<Phase>,
    progress: Option<Progress>,
    /// The place in the queue, while it waits.
    queue: Option<QueueBody>,
    /// Why it failed.
    error: Option<JobProblem>,
    /// How often a worker has begun.
    attempt: i32,
    /// Grows with every change; also the id of the event that tells of it.
    revision: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    urls: JobUrls,
}

/// A place in the queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueBody {
    /// Jobs of the same kind that come first; 0 is next.
    position: i64,
}

/// Where to go on from a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobUrls {
    #[serde(rename = "self")]
    this: String,
    /// `POST` here to stop it.
    cancel: String,
    /// Server-sent events.
    events: String,
}

/// Why a job failed: a problem object without a status, as no request is being answered.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct JobProblem {
    r#type: String,
    #[serde(flatten)]
    failure: Failure,
}

impl From<Failure> for JobProblem {
    fn from(failure: Failure) -> Self {
        Self { r#type: problem_type(&failure.code), failure }
    }
}

impl From<&Job> for JobBody {
    fn from(job: &Job) -> Self {
        let this = job_path(job.job_id, job.task.kind());
        Self {
            status: job.status(),
            phase: job.phase,
            progress: job.progress.clone(),
            queue: job.queue_position.map(|position| QueueBody { position }),
            error: job.error.clone().map(JobProblem::from),
            attempt: job.attempts,
            revision: job.revision,
            created_at: job.created_at.into(),
            updated_at: job.updated_at.into(),
            started_at: job.started_at.map(Timestamp::from),
            finished_at: job.finished_at.map(Timestamp::from),
            urls: JobUrls {
                cancel: format!("{this}/cancel"),
                events: format!("{this}/events"),
                this,
            },
        }
    }
}

/// Where a job is published.
pub(crate) fn job_path(job_id: JobId, kind: JobKind) -> String {
    let collection = match kind {
        JobKind::Training => "trainings",
        JobKind::Merge => "merges",
        JobKind::Sample => "samples",
    };
    format!("/v1/{collection}/{}", published_id(job_id, kind))
}

/// Finds a job of one kind.
pub(crate) async fn find_job(app: &App, job_id: JobId, kind: JobKind) -> Result<Job, ApiError> {
    let job = db::jobs::find(&app.db, job_id, kind).await?;
    job.ok_or_else(|| ApiError::not_found(kind.as_str(), published_id(job_id, kind)))
}

/// Asks a job to stop: 202 while it takes effect, 200 once the job has ended, in whatever way.
pub(crate) async fn cancel_job(
    app: &App,
    job_id: JobId,
    kind: JobKind,
) -> Result<(StatusCode, Job), ApiError> {
    db::jobs::cancel(&app.db, job_id, kind).await?;
    let job = find_job(app, job_id, kind).await?;
    let status = if job.status().is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, job))
}
