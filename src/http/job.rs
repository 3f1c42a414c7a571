//! Jobs as a resource: one implementation for trainings, merges, samples, evaluations and compressions.

pub(crate) mod edit;

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{JobQuery, List, Timestamp};
use super::entity_tag;
use super::error::{ApiError, problem_type};
use crate::app::job::{JobNoun, Tracked, WantedJobs};
use crate::app::{App, Caller, Precondition};
use crate::domain::id::JobId;
use crate::domain::invalid::{Checks, Invalid};
use crate::domain::job::attempt::Attempt;
use crate::domain::job::schedule::Priority;
use crate::domain::job::{Failure, Job, JobKind, JobStatus, Phase, Progress, published_id};
use crate::domain::page::Page;
use crate::domain::record::{ExternalId, Metadata};
use crate::domain::warning::Warning;

/// A kind of job as a resource: what its body is.
pub(crate) trait JobResource: JobNoun {
    type Body: Serialize;
    /// What the job does, without its state and its results.
    type Resolved: Serialize;

    fn body(tracked: Tracked<Self>) -> Self::Body;

    fn resolved(task: Self) -> Self::Resolved;
}

/// The state of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobBody {
    status: JobStatus,
    /// How urgent the job is. Samples of evaluations are `low`, and run after all others.
    priority: Priority,
    /// What a running job is doing.
    phase: Option<Phase>,
    /// How far a running job is.
    progress: Option<Progress>,
    /// The place in the queue, while the job is queued.
    queue: Option<QueueBody>,
    /// Why the job has failed.
    error: Option<JobProblem>,
    /// How many times a worker has started the job.
    attempt: i32,
    /// The attempts that ended without ending the job as succeeded or canceled, in order, and why. For a job that has failed,
    /// the last one is among them.
    previous_attempts: Vec<AttemptBody>,
    /// Increases with every change. Also the id of the event that reports the change.
    revision: i64,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// When a worker first started the job.
    started_at: Option<Timestamp>,
    /// By when the job has to be started. Null if its request gave no `start_within_seconds`.
    start_before: Option<Timestamp>,
    /// By when the job has to end. Null if its request gave no `finish_within_seconds`.
    finish_before: Option<Timestamp>,
    /// When the last attempt took its first step of training or denoising. Null for other kinds of job, and before it.
    first_step_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    /// What the result may suffer from, as far as the request could tell. It was accepted all the same.
    warnings: Vec<Warning>,
    /// Your own texts, as they were given.
    metadata: Metadata,
    /// Your own id for the job. Null if none was given.
    external_id: Option<ExternalId>,
    urls: JobUrls,
}

/// An attempt that has ended without ending its job as succeeded or canceled.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AttemptBody {
    /// Counted from 1.
    attempt: i32,
    started_at: Option<Timestamp>,
    ended_at: Timestamp,
    /// Why it ended.
    reason: JobProblem,
    /// The training step of the checkpoint that the attempt went on from. Null if it started from the beginning.
    resumed_from_step: Option<i32>,
    /// The last step that was reported. Null if there was none.
    reached_step: Option<i32>,
}

impl From<&Attempt> for AttemptBody {
    fn from(attempt: &Attempt) -> Self {
        Self {
            attempt: attempt.attempt,
            started_at: attempt.started_at.map(Timestamp::from),
            ended_at: attempt.ended_at.into(),
            reason: attempt.reason.clone().into(),
            resumed_from_step: attempt.resumed_from_step,
            reached_step: attempt.reached_step,
        }
    }
}

/// A place in the queue.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueBody {
    /// The number of jobs of the same kind that are ahead; 0 for the next one.
    position: i64,
}

/// Related paths of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobUrls {
    /// Path of the job itself.
    #[serde(rename = "self")]
    this: String,
    /// Path to `POST` to, to cancel the job.
    cancel: String,
    /// Path of the job's server-sent events.
    events: String,
}

/// Why a job has failed: a problem without a status, because it does not answer a request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct JobProblem {
    /// The kind of problem as a URI: `urn:vstar:problem:` and the code.
    r#type: String,
    #[serde(flatten)]
    failure: Failure,
}

impl From<Failure> for JobProblem {
    fn from(failure: Failure) -> Self {
        Self { r#type: problem_type(failure.code), failure }
    }
}

impl<N: JobNoun> From<&Job<N>> for JobBody {
    fn from(job: &Job<N>) -> Self {
        let this = job_path(job.job_id, N::KIND);
        Self {
            status: job.status(),
            priority: job.priority,
            phase: job.phase,
            progress: job.progress.clone(),
            queue: job.queue_position.map(|position| QueueBody { position }),
            error: job.error.clone().map(JobProblem::from),
            attempt: job.attempts,
            previous_attempts: job.previous_attempts.iter().map(AttemptBody::from).collect(),
            revision: job.revision,
            created_at: job.created_at.into(),
            updated_at: job.updated_at.into(),
            started_at: job.started_at.map(Timestamp::from),
            start_before: job.start_before.map(Timestamp::from),
            finish_before: job.finish_before.map(Timestamp::from),
            first_step_at: job.first_step_at.map(Timestamp::from),
            finished_at: job.finished_at.map(Timestamp::from),
            warnings: job.warnings.clone(),
            metadata: job.labels.metadata.clone(),
            external_id: job.labels.external_id.clone(),
            urls: JobUrls {
                cancel: format!("{this}/cancel"),
                events: format!("{this}/events"),
                this,
            },
        }
    }
}

/// The path of a job.
pub(crate) fn job_path(job_id: JobId, kind: JobKind) -> String {
    let collection = match kind {
        JobKind::Training => "trainings",
        JobKind::Merge => "merges",
        JobKind::Sample => "samples",
        JobKind::Evaluation => "evaluations",
        JobKind::Compression => "compressions",
    };
    format!("/v1/{collection}/{}", published_id(job_id, kind))
}

/// A job and how its state is answered.
pub(crate) type JobAnswer<N> = (StatusCode, HeaderMap, Json<<N as JobResource>::Body>);

/// The answer to a request that has queued a job: 202, or if the client was willing to wait and the job has ended, 201 with what
/// it has made, or 200 if it has made nothing.
pub(crate) async fn started<N: JobResource>(
    app: &App,
    caller: &Caller,
    request: &HeaderMap,
    queued: Tracked<N>,
) -> Result<JobAnswer<N>, ApiError> {
    let wait = preferred_wait(request);
    let tracked = app.wait(caller, queued, wait.unwrap_or_default()).await?;
    let mut headers = HeaderMap::new();
    if let Ok(path) = HeaderValue::try_from(job_path(tracked.job.job_id, N::KIND)) {
        headers.insert(header::LOCATION, path);
    }
    if !tracked.job.status().is_terminal() {
        headers.insert(header::RETRY_AFTER, ASK_AGAIN);
    }
    if wait.is_some() {
        let applied = HeaderName::from_static("preference-applied");
        headers.insert(applied, HeaderValue::from_static("wait"));
    }
    Ok((started_status(wait, tracked.job.status()), headers, Json(N::body(tracked))))
}

/// How long to wait for a job to change.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Wait up to so many seconds, from 0 to 55, for the job to change or to end. Defaults to 0, which answers at once.
    #[param(minimum = 0, maximum = 55)]
    wait: Option<u64>,
    /// The revision that you know, 0 or more: `wait` ends as soon as the job has a later one, which may be at once. Defaults to the
    /// revision that the job has when the request arrives.
    #[param(minimum = 0)]
    after_revision: Option<i64>,
}

impl WaitQuery {
    fn wait(&self) -> Result<Duration, Invalid> {
        let mut checks = Checks::default();
        let wait = self.wait.unwrap_or(0);
        checks.in_range(wait, 0..=MAX_WAIT.as_secs(), "wait");
        checks.in_range(self.after_revision.unwrap_or(0), 0..=i64::MAX, "after_revision");
        checks.finish()?;
        Ok(Duration::from_secs(wait))
    }
}

/// When to ask for a job again that has not ended.
const ASK_AGAIN: HeaderValue = HeaderValue::from_static("1");

pub(crate) async fn get<N: JobResource>(
    app: &App,
    caller: &Caller,
    id: N::Id,
    query: &WaitQuery,
) -> Result<(HeaderMap, Json<N::Body>), ApiError> {
    let tracked = app.changed::<N>(caller, id, query.after_revision, query.wait()?).await?;
    let mut headers = HeaderMap::new();
    if !tracked.job.status().is_terminal() {
        headers.insert(header::RETRY_AFTER, ASK_AGAIN);
    }
    // A job is polled more than anything: its tag is not looked for in the body.
    let tag = entity_tag::tag(tracked.job.revision, tracked.job.queue_position);
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    Ok((headers, Json(N::body(tracked))))
}

pub(crate) async fn list<N: JobResource>(
    app: &App,
    caller: &Caller,
    query: &JobQuery,
) -> Result<List<N::Body>, ApiError> {
    let wanted = WantedJobs {
        status: query.status,
        concept: query.concept.as_deref(),
        external_id: query.external_id.clone(),
        ..WantedJobs::default()
    };
    list_wanted::<N>(app, caller, wanted, query.page()?).await
}

/// The same for jobs that are wanted by more than all kinds have in common.
pub(crate) async fn list_wanted<N: JobResource>(
    app: &App,
    caller: &Caller,
    wanted: WantedJobs<'_>,
    page: Page,
) -> Result<List<N::Body>, ApiError> {
    let page = app.jobs::<N>(caller, wanted, page).await?;
    Ok(List::new(page, |tracked| tracked.job.job_id.0, N::body))
}

/// 202 while the request to stop takes effect, 200 once the job has ended, in whatever way.
pub(crate) async fn cancel<N: JobResource>(
    app: &App,
    caller: &Caller,
    id: N::Id,
    precondition: &Precondition,
) -> Result<(StatusCode, Json<N::Body>), ApiError> {
    let tracked = app.cancel::<N>(caller, id, precondition).await?;
    let has_ended = tracked.job.status().is_terminal();
    let status = if has_ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(N::body(tracked))))
}

/// The longest that `Prefer: wait=N` is honoured: proxies tend to give up after a minute.
const MAX_WAIT: Duration = Duration::from_secs(55);

/// A client that did not ask to wait gets the same status however fast its job was.
fn started_status(wait: Option<Duration>, job: JobStatus) -> StatusCode {
    match wait {
        Some(_) if job == JobStatus::Succeeded => StatusCode::CREATED,
        Some(_) if job.is_terminal() => StatusCode::OK,
        Some(_) | None => StatusCode::ACCEPTED,
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
            (Some(MAX_WAIT), JobStatus::Failed, StatusCode::OK),
            (Some(MAX_WAIT), JobStatus::Canceled, StatusCode::OK),
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
