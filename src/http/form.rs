//! Multipart forms with bounds on everything that is not the content of a part.
//!
//! The parser keeps what stands before a part and in a part's headers in memory, and searches all of it again whenever more
//! arrives. [`Form`] gives it one piece of the body at a time, and ends a request that sends more than [`MAX_UNREAD`] bytes
//! without getting any further.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::multipart::{self, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::{Stream, StreamExt};

use super::error::ApiError;
use crate::app::idempotency::KeyedRequest;
use crate::domain::code::Code;
use crate::domain::invalid::FieldError;

/// The largest form: a few dozen photos of the largest size.
pub(crate) const MAX_UPLOAD_BYTES: usize = 512 * 1024 * 1024;

/// The most bytes in which the parser may find neither the beginning of a part nor content.
const MAX_UNREAD: usize = 64 * 1024;

/// The most bytes that are read after an error, and the time for them.
const MAX_DRAINED: usize = 32 * 1024 * 1024;
const DRAIN_WITHIN: Duration = Duration::from_secs(2);

/// The most characters of a part's name that messages repeat.
const MAX_NAME_CHARS: usize = 100;

/// A form whose parts are read one by one.
pub(crate) struct Form {
    parts: Multipart,
    progress: Arc<Progress>,
    keyed: Option<KeyedRequest>,
}

/// A part of a form.
pub(crate) struct Part<'a> {
    field: multipart::Field<'a>,
    progress: Arc<Progress>,
    keyed: Option<&'a KeyedRequest>,
}

/// How many bytes the parser has been given since it last found something.
#[derive(Default)]
struct Progress {
    unread: AtomicUsize,
    gave_up: AtomicBool,
}

impl Form {
    /// - `what`: what the form is for, for the error
    pub(crate) async fn open(request: Request, what: &str) -> Result<Self, ApiError> {
        let progress = Arc::new(Progress::default());
        let keyed = request.extensions().get::<KeyedRequest>().cloned();
        let counted = request.map(|body| {
            let bytes = body.into_data_stream();
            Body::from_stream(Counted { bytes, progress: progress.clone(), pauses: false })
        });
        let parts = Multipart::from_request(counted, &()).await.map_err(|rejection| {
            ApiError::UnsupportedMediaType(format!(
                "send the {what} as multipart/form-data: {}",
                rejection.body_text()
            ))
        })?;
        Ok(Self { parts, progress, keyed })
    }

    /// Reads on for a moment after an error. A connection that is closed while its client still sends is reset, and the client may
    /// lose the answer.
    pub(crate) async fn drain(mut self) {
        let rest = async {
            let mut drained = 0;
            while let Ok(Some(mut part)) = self.next_part().await {
                while let Ok(Some(chunk)) = part.chunk().await {
                    drained += chunk.len();
                    if drained > MAX_DRAINED {
                        return;
                    }
                }
            }
        };
        // Whoever has not sent it by then does not get the answer.
        let _ = tokio::time::timeout(DRAIN_WITHIN, rest).await;
    }

    /// The next part, `None` after the last one.
    pub(crate) async fn next_part(&mut self) -> Result<Option<Part<'_>>, ApiError> {
        let next = self.parts.next_field().await;
        let next = next.map_err(|error| self.progress.refusal(&error))?;
        self.progress.note();
        Ok(next.map(|field| {
            let keyed = self.keyed.as_ref();
            if let Some(keyed) = keyed {
                for text in [field.name(), field.file_name()] {
                    keyed.add(text.unwrap_or_default().as_bytes());
                }
            }
            Part { field, progress: self.progress.clone(), keyed }
        }))
    }
}

impl Part<'_> {
    /// The name of the field.
    pub(crate) fn name(&self) -> Option<&str> {
        self.field.name()
    }

    pub(crate) fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// More of the content, `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        let chunk = self.field.chunk().await.map_err(|error| self.progress.refusal(&error))?;
        self.progress.note();
        if let (Some(keyed), Some(chunk)) = (self.keyed, &chunk) {
            keyed.add_more(chunk);
        }
        Ok(chunk)
    }

    /// The refusal of a part that the form does not have.
    ///
    /// - `instead`: what to send
    pub(crate) fn unknown(&self, instead: &str) -> FieldError {
        let name: String = self.name().unwrap_or_default().chars().take(MAX_NAME_CHARS).collect();
        let detail = format!("unknown field `{name}`: {instead}");
        FieldError::new(format!("/{name}"), Code::UnknownField, detail)
    }
}

impl Progress {
    fn note(&self) {
        self.unread.store(0, Ordering::Relaxed);
    }

    fn refusal(&self, error: &MultipartError) -> ApiError {
        if self.gave_up.load(Ordering::Relaxed) {
            ApiError::Malformed(format!(
                "the form has more than {MAX_UNREAD} bytes before a part or in a part's headers: send the boundary of the \
                 content type, and short names"
            ))
        } else if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            ApiError::BodyTooLarge { limit_bytes: MAX_UPLOAD_BYTES }
        } else {
            ApiError::Malformed(format!("the form cannot be read: {}", error.body_text()))
        }
    }
}

/// Reads a whole form and returns the bytes of each part's content, or why it is refused.
///
/// The handlers of uploads read forms part by part. This is the same reader for tests that need no service.
pub async fn read_form(request: Request) -> Result<Vec<usize>, StatusCode> {
    let refused = |error: ApiError| error.into_response().status();
    let mut form = Form::open(request, "form").await.map_err(refused)?;
    let mut sizes = Vec::new();
    while let Some(mut part) = form.next_part().await.map_err(refused)? {
        let mut size = 0;
        while let Some(chunk) = part.chunk().await.map_err(refused)? {
            size += chunk.len();
        }
        sizes.push(size);
    }
    Ok(sizes)
}

/// A body that counts what the parser takes.
struct Counted {
    bytes: BodyDataStream,
    progress: Arc<Progress>,
    /// Whether the parser has to look at what it has before it gets more. It would take all that has arrived otherwise.
    pauses: bool,
}

impl Stream for Counted {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.pauses) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.progress.unread.load(Ordering::Relaxed) > MAX_UNREAD {
            self.progress.gave_up.store(true, Ordering::Relaxed);
            let error = axum::Error::new("the form goes on without a part");
            return Poll::Ready(Some(Err(error)));
        }
        let next = self.bytes.poll_next_unpin(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            self.progress.unread.fetch_add(bytes.len(), Ordering::Relaxed);
            self.pauses = true;
        }
        next
    }
}
