//! What trainings, merges and samples have in common as jobs.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::body::Timestamp;
use super::error::{ApiError, problem_type};
use crate::app::App;
use crate::db;
use crate::domain::id::JobId;
use crate::domain::job::{Failure, Job, JobKind, JobStatus, Phase, Progress, Task, published_id};

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
    /// When a sample that has succeeded took its first denoising step.
    first_step_at: Option<Timestamp>,
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
        Self { r#type: problem_type(failure.code), failure }
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
            first_step_at: job.first_step_at.map(Timestamp::from),
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
    let job = db::job::find(&app.db, job_id, kind).await?;
    job.ok_or_else(|| ApiError::not_found(kind.as_str(), published_id(job_id, kind)))
}

/// The shortest and the longest time after which a client that was turned away is asked to come again.
const RETRY_AFTER: RangeInclusive<u64> = 1..=300;

/// Puts a task at the end of its queue and wakes idle workers, once the transaction commits.
///
/// # Errors
/// [`ApiError::QueueFull`] if as many jobs of the kind wait as may, with the time in which a tenth of them will be done.
pub(crate) async fn enqueue(
    app: &App,
    tx: &mut PgConnection,
    task: &Task,
) -> Result<JobId, ApiError> {
    let kind = task.kind();
    db::job::take_turn(&mut *tx, kind).await?;
    let queued = db::job::count_queued(&mut *tx, kind).await?;
    if usize::try_from(queued).unwrap_or(0) >= app.queue_limit {
        return Err(queue_full(app, tx, kind).await?);
    }
    let job_id = JobId::generate();
    db::job::enqueue(&mut *tx, job_id, task).await?;
    Ok(job_id)
}

async fn queue_full(app: &App, tx: &mut PgConnection, kind: JobKind) -> sqlx::Result<ApiError> {
    let limit = app.queue_limit;
    let some = limit.div_ceil(10) as f64;
    // Before the first job of a kind has ended, nobody knows.
    let seconds = match db::job::rate(tx, kind).await? {
        Some(per_second) if per_second > 0.0 => (some / per_second).ceil() as u64,
        Some(_) | None => 30,
    };
    let retry_after = Duration::from_secs(seconds.clamp(*RETRY_AFTER.start(), *RETRY_AFTER.end()));
    Ok(ApiError::QueueFull { kind: kind.as_str(), limit, retry_after })
}

/// The longest that `Prefer: wait=N` is honoured: proxies tend to give up after a minute.
const MAX_WAIT: Duration = Duration::from_secs(55);
/// How often a waiting request looks: at first every so often, then after each tenth of the time that it has waited.
const POLL: Duration = Duration::from_millis(10);

/// The answer to a request that has queued a job: 202, or 201 if the client was willing to wait and it has ended.
pub(crate) async fn started(
    app: &App,
    job_id: JobId,
    kind: JobKind,
    request: &HeaderMap,
) -> Result<(StatusCode, HeaderMap, Job), ApiError> {
    let wait = preferred_wait(request);
    let began = Instant::now();
    let deadline = began + wait.unwrap_or_default();
    let job = loop {
        let job = find_job(app, job_id, kind).await?;
        let now = Instant::now();
        if job.status().is_terminal() || now >= deadline || app.shutdown.is_cancelled() {
            break job;
        }
        let next = now + POLL.max(now.duration_since(began) / 10);
        tokio::time::sleep_until(next.min(deadline)).await;
    };
    let mut headers = HeaderMap::new();
    if let Ok(place) = HeaderValue::try_from(job_path(job_id, kind)) {
        headers.insert(header::LOCATION, place);
    }
    if wait.is_some() {
        headers.insert(
            HeaderName::from_static("preference-applied"),
            HeaderValue::from_static("wait"),
        );
    }
    Ok((started_status(wait, job.status()), headers, job))
}

/// A client that did not ask to wait gets the same status however fast its job was.
fn started_status(wait: Option<Duration>, job: JobStatus) -> StatusCode {
    match wait {
        Some(_) if job.is_terminal() => StatusCode::CREATED,
        _ => StatusCode::ACCEPTED,
    }
}

/// Reads `Prefer: wait=N` (RFC 7240); what cannot be read is no preference, as the RFC asks.
fn preferred_wait(request: &HeaderMap) -> Option<Duration> {
    let preferences = request.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let seconds = preferences
        .flat_map(|text| text.split([',', ';']))
        .find_map(|preference| preference.trim().strip_prefix("wait=")?.parse().ok())?;
    Some(Duration::from_secs(seconds).min(MAX_WAIT))
}

/// Asks a job to stop: 202 while it takes effect, 200 once the job has ended, in whatever way.
pub(crate) async fn cancel_job(
    app: &App,
    job_id: JobId,
    kind: JobKind,
) -> Result<(StatusCode, Job), ApiError> {
    db::job::cancel(&app.db, job_id, kind).await?;
    let job = find_job(app, job_id, kind).await?;
    let status = if job.status().is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, job))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_waits_is_told_of_the_end() {
        for (wait, job, status) in [
            (None, JobStatus::Succeeded, StatusCode::ACCEPTED),
            (None, JobStatus::Queued, StatusCode::ACCEPTED),
            (Some(Duration::ZERO), JobStatus::Running, StatusCode::ACCEPTED),
            (Some(Duration::ZERO), JobStatus::Succeeded, StatusCode::CREATED),
            (Some(MAX_WAIT), JobStatus::Failed, StatusCode::CREATED),
        ] {
            assert_eq!(started_status(wait, job), status, "{wait:?}, {job:?}");
        }
    }

    #[test]
    fn a_wait_is_read_among_other_preferences() {
        for (text, seconds) in [
            ("wait=10", Some(10)),
            ("respond-async, wait=5", Some(5)),
            ("wait=3600", Some(55)),
            ("wait=soon", None),
            ("respond-async", None),
        ] {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("prefer"),
                HeaderValue::from_static(text),
            )]);
            assert_eq!(preferred_wait(&headers), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
