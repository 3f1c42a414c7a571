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
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use utoipa::ToSchema;

use super::body::Timestamp;
use super::error::{ApiError, Problem};
use super::extract::Path;
use super::job::{JobProblem, find_job};
use super::preview::preview_path;
use crate::app::App;
use crate::db;
use crate::domain::id::{JobId, MergeId, SampleId, TrainingId};
use crate::domain::job::{JobEvent, JobKind, JobStatus, Phase, Progress, published_id};

/// How often a stream looks for new rows. Progress is written once a second.
const POLL: Duration = Duration::from_millis(250);
const HEARTBEAT: Duration = Duration::from_secs(15);
const RETRY: Duration = Duration::from_secs(3);

/// The data of an event `job.updated` or, as the last one, `job.terminal`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EventBody {
    /// The training, merge or sample.
    id: String,
    status: JobStatus,
    phase: Option<Phase>,
    progress: Option<Progress>,
    error: Option<JobProblem>,
    /// Paths of the newest previews of those pictures of a sample that have one, as in `progress.previews`.
    previews: Vec<String>,
    /// Also the event's id.
    revision: i64,
    created_at: Timestamp,
}

/// Streams the progress of a training as server-sent events.
///
/// Events are `job.updated` and, as the last one, `job.terminal`, then the stream ends. Their ids are the training's
/// revisions: send the last one seen as `Last-Event-ID` to go on from there. After the last event the answer is 204.
#[utoipa::path(get, path = "/v1/trainings/{training_id}/events", tag = "trainings",
    params(
        ("training_id" = TrainingId, Path),
        ("last-event-id" = Option<i64>, Header, description = "Send what came after this event"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventBody),
        (status = 204, description = "The training has ended and everything has been sent"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn stream_training_events(
    State(app): State<App>,
    Path(training_id): Path<TrainingId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream_events(app, training_id.into(), JobKind::Training, &headers).await
}

/// Streams the progress of a merge as server-sent events, like that of a training.
#[utoipa::path(get, path = "/v1/merges/{merge_id}/events", tag = "merges",
    params(
        ("merge_id" = MergeId, Path),
        ("last-event-id" = Option<i64>, Header, description = "Send what came after this event"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventBody),
        (status = 204, description = "The merge has ended and everything has been sent"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn stream_merge_events(
    State(app): State<App>,
    Path(merge_id): Path<MergeId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream_events(app, merge_id.into(), JobKind::Merge, &headers).await
}

/// Streams the progress of a sample as server-sent events, like that of a training.
#[utoipa::path(get, path = "/v1/samples/{sample_id}/events", tag = "samples",
    params(
        ("sample_id" = SampleId, Path),
        ("last-event-id" = Option<i64>, Header, description = "Send what came after this event"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = EventBody),
        (status = 204, description = "The sample has ended and everything has been sent"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn stream_sample_events(
    State(app): State<App>,
    Path(sample_id): Path<SampleId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    stream_events(app, sample_id.into(), JobKind::Sample, &headers).await
}

async fn stream_events(
    app: App,
    job_id: JobId,
    kind: JobKind,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let job = find_job(&app, job_id, kind).await?;
    let last_seen = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last_seen: i64 = last_seen.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if job.status().is_terminal() && last_seen >= job.revision {
        // To a browser this says: do not connect again.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let heartbeat = KeepAlive::new().interval(HEARTBEAT);
    let mut response =
        Sse::new(follow(app, job_id, kind, last_seen)).keep_alive(heartbeat).into_response();
    let no_buffering = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(no_buffering, HeaderValue::from_static("no"));
    Ok(response)
}

/// The events after `last_seen`, as they come, up to the terminal one.
fn follow(
    app: App,
    job_id: JobId,
    kind: JobKind,
    last_seen: i64,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let batches = stream::unfold(Some(last_seen), move |state| {
        let app = app.clone();
        async move {
            let events = next_events(&app, job_id, state?).await?;
            let last = events.last()?;
            let next = (!last.status.is_terminal()).then_some(last.seq);
            Some((stream::iter(events), next))
        }
    });
    batches.flatten().map(move |event| Ok(to_sse(event, job_id, kind)))
}

/// Waits for events after `seq`; `None` if the server shuts down or its database is gone: the client comes again.
async fn next_events(app: &App, job_id: JobId, seq: i64) -> Option<Vec<JobEvent>> {
    loop {
        match db::event::after(&app.db, job_id, seq, 200).await {
            Ok(events) if !events.is_empty() => return Some(events),
            Ok(_) => {}
            Err(error) => {
                tracing::error!(%error, job.id = %job_id, "event stream broke off");
                return None;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = app.shutdown.cancelled() => return None,
        }
    }
}

fn to_sse(event: JobEvent, job_id: JobId, kind: JobKind) -> Event {
    let name = if event.status.is_terminal() { "job.terminal" } else { "job.updated" };
    let previews = match &event.progress {
        Some(progress) if !event.status.is_terminal() => {
            progress.previews.iter().map(|preview| preview_path(job_id.into(), *preview)).collect()
        }
        Some(_) | None => Vec::new(), // they end with the job
    };
    let body = EventBody {
        id: published_id(job_id, kind),
        status: event.status,
        phase: event.phase,
        progress: event.progress,
        error: event.error.map(JobProblem::from),
        previews,
        revision: event.seq,
        created_at: event.created_at.into(),
    };
    let sse = Event::default().event(name).id(event.seq.to_string()).retry(RETRY);
    // Numbers that are not finite are the only thing that could fail, and become null.
    sse.json_data(body).unwrap_or_default()
}
