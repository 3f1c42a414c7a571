//! How long a request's body is waited for, and a request as a whole while the database is away.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::error::ApiError;
use crate::app::App;
use crate::shutdown::Shutdown;

/// How long a client may send nothing of a body that it owes. An upload as a whole may take any time.
const QUIET_LIMIT: Duration = Duration::from_secs(30);
/// How long a body may still take when the process closes.
pub const CLOSING_LIMIT: Duration = Duration::from_secs(5);

/// Answers 408 to a request whose body does not come, and 503 if the database is lost meanwhile.
pub(crate) async fn with_patience(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    let gave_up = Arc::new(AtomicBool::new(false));
    let needs_database =
        ["/v1/", "/openai/"].iter().any(|root| request.uri().path().starts_with(root));
    let watched = gave_up.clone();
    let shutdown = app.shutdown().clone();
    let request = request.map(|body| {
        if body.is_end_stream() {
            body
        } else {
            Body::new(PatientBody::new(body, watched, &shutdown))
        }
    });
    let response = tokio::select! {
        biased; // what cannot be served takes no connection to the database
        refusal = app.database_lost(), if needs_database => ApiError::from(refusal).into_response(),
        response = next.run(request) => response,
    };
    if gave_up.load(Ordering::Relaxed) && !response.status().is_success() {
        let mut response = ApiError::BodyTimedOut.into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    response
}

/// A body that fails if nothing comes for a while, or if it is still coming when the process closes.
struct PatientBody {
    body: Body,
    gave_up: Arc<AtomicBool>,
    /// Whether its error has been told. Whoever reads on finds the end.
    has_failed: bool,
    /// Whether the client is waited for. While the handler does other things, the time does not count.
    is_waiting: bool,
    quiet: Pin<Box<Sleep>>,
    closed: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl PatientBody {
    fn new(body: Body, gave_up: Arc<AtomicBool>, shutdown: &Shutdown) -> Self {
        let closing = shutdown.closing_token().clone();
        let closed = Box::pin(async move {
            closing.cancelled().await;
            tokio::time::sleep(CLOSING_LIMIT).await;
        });
        let quiet = Box::pin(tokio::time::sleep(QUIET_LIMIT));
        Self { body, gave_up, has_failed: false, is_waiting: false, quiet, closed }
    }
}

impl HttpBody for PatientBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        let over = self.closed.as_mut().poll(context).is_ready();
        if !over && let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.is_waiting = false;
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.quiet.as_mut().reset(Instant::now() + QUIET_LIMIT);
        }
        if over || self.quiet.as_mut().poll(context).is_ready() {
            self.has_failed = true;
            self.gave_up.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err("the body did not come in time".into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
