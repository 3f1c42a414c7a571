//! Progress as server-sent events, from the rows that the catalog keeps.
//!
//! A stream starts after the event that the client saw last, so nothing is lost between two connections, nor by a
//! restart of the server. It ends after the job's last event.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::Timestamp;
use super::error::{ApiError, Problem};
use super::extract::Path;
use super::job::JobProblem;
use super::preview::preview_path;
use crate::app::job::JobNoun;
use crate::app::{App, Caller};
use crate::domain::compression::CompressionTask;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::id::{CompressionId, EvaluationId, MergeId, SampleId, TrainingId};
use crate::domain::job::{JobEvent, JobStatus, Phase, Progress};
use crate::domain::merge::MergeTask;
use crate::domain::sample::SampleTask;
use crate::domain::training::task::TrainingTask;

/// How often a quiet stream sends a comment, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// After what time a browser connects again.
const RECONNECT_AFTER: Duration = Duration::from_secs(3);

/// The data of an event.
///
/// The event's name is `job.updated`, or `job.terminal` for the last one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventBody {
    /// The id of the training, merge, sample or evaluation.
    id: String,
    status: JobStatus,
    /// What a running job is doing.
    phase: Option<Phase>,
    /// How far a running job is.
    progress: Option<Progress>,
    /// Why the job has failed.
    error: Option<JobProblem>,
    /// Paths of the newest previews of a sample's images, for those images in `progress.previews`.
    previews: Vec<String>,
    /// The job's revision. Also the event's id.
    revision: i64,
    created_at: Timestamp,
}

/// Streams the progress of a training as server-sent events.
///
/// Events are named `job.updated`; the last one is named `job.terminal`, and the stream ends after it. An event's id is
/// the training's revision: send the last id you have seen as `Last-Event-ID` to continue after it. Once the last event
/// has been seen, the response is 204.
#[utoipa::path(get, path = "/v1/trainings/{training_id}/events", tag = "trainings",
    params(
        ("training_id" = TrainingId, Path),
        ("last-event-id" = Option<String>, Header,
            description = "The id of the last event that was seen: the stream goes on after it. Without one it starts with the first"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventBody, description = "OK"),
        (status = 204, description = "The training has ended and all its events have been seen"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn stream_training_events(
    State(app): State<App>,
    caller: Caller,
    Path(training_id): Path<TrainingId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream_events::<TrainingTask>(&app, &caller, training_id, &headers).await
}

/// Streams the progress of a merge as server-sent events, as for a training.
#[utoipa::path(get, path = "/v1/merges/{merge_id}/events", tag = "merges",
    params(
        ("merge_id" = MergeId, Path),
        ("last-event-id" = Option<String>, Header,
            description = "The id of the last event that was seen: the stream goes on after it. Without one it starts with the first"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventBody, description = "OK"),
        (status = 204, description = "The merge has ended and all its events have been seen"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn stream_merge_events(
    State(app): State<App>,
    caller: Caller,
    Path(merge_id): Path<MergeId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream_events::<MergeTask>(&app, &caller, merge_id, &headers).await
}

/// Streams the progress of a sample as server-sent events, as for a training.
#[utoipa::path(get, path = "/v1/samples/{sample_id}/events", tag = "samples",
    params(
        ("sample_id" = SampleId, Path),
        ("last-event-id" = Option<String>, Header,
            description = "The id of the last event that was seen: the stream goes on after it. Without one it starts with the first"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventBody, description = "OK"),
        (status = 204, description = "The sample has ended and all its events have been seen"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn stream_sample_events(
    State(app): State<App>,
    caller: Caller,
    Path(sample_id): Path<SampleId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream_events::<SampleTask>(&app, &caller, sample_id, &headers).await
}

/// Streams the progress of an evaluation as server-sent events, as for a training.
#[utoipa::path(get, path = "/v1/evaluations/{evaluation_id}/events", tag = "evaluations",
    params(
        ("evaluation_id" = EvaluationId, Path),
        ("last-event-id" = Option<String>, Header,
            description = "The id of the last event that was seen: the stream goes on after it. Without one it starts with the first"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventBody, description = "OK"),
        (status = 204, description = "The evaluation has ended and all its events have been seen"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn stream_evaluation_events(
    State(app): State<App>,
    caller: Caller,
    Path(evaluation_id): Path<EvaluationId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream_events::<EvaluationTask>(&app, &caller, evaluation_id, &headers).await
}

/// Streams the progress of a compression as server-sent events, as for a training.
#[utoipa::path(get, path = "/v1/compressions/{compression_id}/events", tag = "compressions",
    params(
        ("compression_id" = CompressionId, Path),
        ("last-event-id" = Option<String>, Header,
            description = "The id of the last event that was seen: the stream goes on after it. Without one it starts with the first"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventBody, description = "OK"),
        (status = 204, description = "The compression has ended and all its events have been seen"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn stream_compression_events(
    State(app): State<App>,
    caller: Caller,
    Path(compression_id): Path<CompressionId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream_events::<CompressionTask>(&app, &caller, compression_id, &headers).await
}

async fn stream_events<N: JobNoun>(
    app: &App,
    caller: &Caller,
    id: N::Id,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let last_seen = last_event_id(headers)?;
    let Some(events) = app.events::<N>(caller, id, last_seen).await? else {
        // To a browser this says: do not connect again.
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let events = events.map(move |event| Ok::<_, Infallible>(to_sse::<N>(event, id)));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    let no_buffering = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(no_buffering, HeaderValue::from_static("no"));
    Ok(response)
}

/// The number of the event that the client saw last; 0 if it has seen none.
fn last_event_id(headers: &HeaderMap) -> Result<i64, ApiError> {
    let name = HeaderName::from_static("last-event-id");
    let Some(value) = headers.get(&name) else { return Ok(0) };
    let text = value.to_str().map(str::trim).unwrap_or("?");
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    match text {
        "" => Ok(0), // a browser that has seen no event with an id
        text if is_number => Ok(text.parse().unwrap_or(i64::MAX)),
        _ => {
            let detail = "send the id of the last event as it was sent, a whole number".to_owned();
            Err(ApiError::MalformedHeader { name, detail })
        }
    }
}

fn to_sse<N: JobNoun>(event: JobEvent, id: N::Id) -> Event {
    let name = if event.status.is_terminal() { "job.terminal" } else { "job.updated" };
    let previews = match &event.progress {
        Some(progress) if !event.status.is_terminal() => {
            let sample_id = SampleId::from(id.into());
            progress.previews.iter().map(|preview| preview_path(sample_id, *preview)).collect()
        }
        Some(_) | None => Vec::new(), // previews end with the job
    };
    let body = EventBody {
        id: id.to_string(),
        status: event.status,
        phase: event.phase,
        progress: event.progress,
        error: event.error.map(JobProblem::from),
        previews,
        revision: event.seq,
        created_at: event.created_at.into(),
    };
    let sse = Event::default().event(name).id(event.seq.to_string()).retry(RECONNECT_AFTER);
    // Numbers that are not finite are the only thing that could fail, and become null.
    sse.json_data(body).unwrap_or_default()
}
