//! Errors as RFC 9457 problems: the only place that knows their status and body.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower_http::request_id::RequestId;
use utoipa::ToSchema;

use crate::app::Refusal;
use crate::domain::code::Code;
use crate::domain::invalid::{FieldError, Invalid, MAX_DETAIL_CHARS, shortened};

/// Why a request failed: refused by a verb, or not a valid request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The body is not of the form that its content type promises.
    #[error("{0}")]
    Malformed(String),
    #[error("the header {name} cannot be read: {detail}")]
    MalformedHeader { name: HeaderName, detail: String },
    /// What stands in the path cannot be the name of anything.
    #[error("{0}")]
    NotFound(String),
    #[error("no such path: {0}")]
    NoRoute(String),
    #[error("the path does not support this method")]
    MethodNotAllowed,
    #[error("{0}")]
    UnsupportedMediaType(String),
    #[error("the body has more than {limit_bytes} bytes")]
    BodyTooLarge { limit_bytes: usize },
    #[error("the range lies outside of the {size_bytes} bytes")]
    RangeNotSatisfiable { size_bytes: u64 },
    /// The client owes a part of the body, and nothing has come for a while or the process closes.
    #[error("the body did not come in time: send the request again, without pauses")]
    BodyTimedOut,
    /// The images that the request waited for could not be made.
    #[error("{detail}")]
    NotMade { code: Code, detail: String },
    /// The process has been asked to end.
    #[error("the process ends: send the request to another one")]
    ShuttingDown,
    /// The machine failed, such as its disk; the text is for the log and not for the client.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A bug; the text is for the log and not for the client.
    #[error("internal error")]
    Panicked(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self::Refused(invalid.into())
    }
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::Invalid(_) | Refusal::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
                Refusal::NotFound { .. } => StatusCode::NOT_FOUND,
                Refusal::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
                Refusal::Forbidden { code: Code::UnknownHost, .. } => {
                    StatusCode::MISDIRECTED_REQUEST
                }
                Refusal::Forbidden { .. } => StatusCode::FORBIDDEN,
                Refusal::RateLimited { .. } | Refusal::QuotaExceeded { .. } => {
                    StatusCode::TOO_MANY_REQUESTS
                }
                Refusal::Conflict(_) | Refusal::InUse(_) | Refusal::KeyInFlight => {
                    StatusCode::CONFLICT
                }
                Refusal::PreconditionFailed { .. } => StatusCode::PRECONDITION_FAILED,
                Refusal::QueueFull { .. }
                | Refusal::NotReady { .. }
                | Refusal::Overloaded
                | Refusal::Unavailable { .. }
                | Refusal::StoreFull { .. } => StatusCode::SERVICE_UNAVAILABLE,
                Refusal::ObjectLost { .. } | Refusal::Internal(_) => {
                    StatusCode::INTERNAL_SERVER_ERROR
                }
            },
            Self::Malformed(_) | Self::MalformedHeader { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound(_) | Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::BodyTimedOut => StatusCode::REQUEST_TIMEOUT,
            Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Panicked(_) | Self::Internal(_) | Self::NotMade { .. } => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// Whether the request itself was refused, before anything was made of it.
    pub(crate) fn is_of_request(&self) -> bool {
        self.status().is_client_error()
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Malformed(_) => Code::MalformedBody,
            Self::MalformedHeader { .. } => Code::MalformedHeader,
            Self::NotFound(_) => Code::NotFound,
            Self::NoRoute(_) => Code::NoSuchPath,
            Self::MethodNotAllowed => Code::MethodNotAllowed,
            Self::UnsupportedMediaType(_) => Code::UnsupportedMediaType,
            Self::BodyTooLarge { .. } => Code::BodyTooLarge,
            Self::RangeNotSatisfiable { .. } => Code::RangeNotSatisfiable,
            Self::BodyTimedOut => Code::RequestTimeout,
            Self::NotMade { code, .. } => *code,
            Self::ShuttingDown => Code::ShuttingDown,
            Self::Panicked(_) | Self::Internal(_) => Code::InternalError,
        }
    }

    /// What is wrong field by field, if the request is at fault.
    pub(crate) fn errors(&self) -> &[FieldError] {
        match self {
            Self::Refused(refusal) => refusal.errors(),
            Self::Malformed(_)
            | Self::MalformedHeader { .. }
            | Self::NotFound(_)
            | Self::NoRoute(_)
            | Self::MethodNotAllowed
            | Self::UnsupportedMediaType(_)
            | Self::BodyTooLarge { .. }
            | Self::RangeNotSatisfiable { .. }
            | Self::BodyTimedOut
            | Self::ShuttingDown
            | Self::NotMade { .. }
            | Self::Panicked(_)
            | Self::Internal(_) => &[],
        }
    }

    fn problem(&self) -> Problem {
        let status = self.status();
        let errors = self.errors();
        let detail = match errors {
            [] => self.to_string(),
            errors => {
                errors.iter().map(|error| error.detail.as_str()).collect::<Vec<_>>().join("; ")
            }
        };
        let detail = shortened(detail, MAX_DETAIL_CHARS);
        Problem {
            r#type: problem_type(self.code()),
            title: title(status).to_owned(),
            status: status.as_u16(),
            code: self.code(),
            detail,
            errors: errors.iter().map(ProblemField::from).collect(),
            request_id: None,
            retryable: matches!(
                status,
                StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::REQUEST_TIMEOUT
                    | StatusCode::TOO_MANY_REQUESTS
            ) || self.code() == Code::IdempotencyInFlight,
        }
    }

    /// Logs what an operator must see, once.
    fn log(&self) {
        if self.status().is_server_error()
            && !matches!(self, Self::NotMade { .. }) // which the worker has logged
            && !matches!(
                self.code(),
                Code::QueueFull | Code::ImageSetNotIndexed | Code::ShuttingDown | Code::Overloaded
            )
        {
            tracing::error!(error = chain(self), "request failed");
        } else {
            tracing::debug!(error = %self, code = self.code().as_str(), "request refused");
        }
    }
}

/// Why a request was not done, as an RFC 9457 problem.
///
/// Programs read `code`, people read `detail`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The kind of problem as a URI: `urn:vstar:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(examples("urn:vstar:problem:prompt_too_long"))]
    r#type: String,
    /// The reason phrase of the HTTP status.
    title: String,
    /// The HTTP status.
    status: u16,
    pub(crate) code: Code,
    /// What is wrong and, where the client can correct it, how.
    detail: String,
    /// The errors field by field; empty if no field of the request is at fault.
    errors: Vec<ProblemField>,
    /// The id of the request in the server's log, also in the header `x-request-id`.
    request_id: Option<String>,
    /// Whether the same request may succeed later.
    retryable: bool,
}

impl Problem {
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    pub(crate) fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The fields that are wrong.
    pub(crate) fn pointers(&self) -> impl Iterator<Item = &str> {
        self.errors.iter().map(|error| error.pointer.as_str())
    }
}

/// What is wrong with one field.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ProblemField {
    /// JSON pointer into the request body, or the name of a query parameter.
    #[schema(examples("/prompt"))]
    pointer: String,
    code: Code,
    /// What is wrong and what would be right.
    detail: String,
}

impl Problem {
    pub(super) fn code(&self) -> Code {
        self.code
    }
}

impl From<&FieldError> for ProblemField {
    fn from(error: &FieldError) -> Self {
        Self { pointer: error.pointer.clone(), code: error.code, detail: error.detail.clone() }
    }
}

/// The URI of a kind of problem.
pub(crate) fn problem_type(code: Code) -> String {
    format!("urn:vstar:problem:{code}")
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let mut response = self.status().into_response();
        match &self {
            Self::RangeNotSatisfiable { size_bytes } => {
                if let Ok(value) = HeaderValue::try_from(format!("bytes */{size_bytes}")) {
                    response.headers_mut().insert(header::CONTENT_RANGE, value);
                }
            }
            Self::Refused(refusal) => {
                if let Some(after) = refusal.retry_after() {
                    let seconds = after.as_secs_f64().ceil() as u64;
                    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
                }
                if let Refusal::Unauthenticated { .. } = refusal {
                    let challenge = HeaderValue::from_static("Bearer realm=\"vstar\"");
                    response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                }
            }
            Self::ShuttingDown => {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Malformed(_)
            | Self::MalformedHeader { .. }
            | Self::NotFound(_)
            | Self::NoRoute(_)
            | Self::MethodNotAllowed
            | Self::UnsupportedMediaType(_)
            | Self::BodyTooLarge { .. }
            | Self::BodyTimedOut
            | Self::NotMade { .. }
            | Self::Panicked(_)
            | Self::Internal(_) => {}
        }
        // The body follows in `write_problem`, which knows the request's id.
        response.extensions_mut().insert(self.problem());
        response
    }
}

/// An error with its sources, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Writes the body of an error, with the id of the request that failed.
pub(crate) async fn write_problem(request: Request, next: Next) -> Response {
    let request_id = request
        .extensions()
        .get::<RequestId>()
        .and_then(|id| id.header_value().to_str().ok())
        .map(str::to_owned);
    let mut response = next.run(request).await;
    let Some(mut problem) = response.extensions_mut().remove::<Problem>() else { return response };

    problem.request_id = request_id;
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    *response.body_mut() = Body::from(body);
    response
}

/// The answer to a request whose handler panicked.
pub(crate) fn from_panic(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("panic");
    ApiError::Panicked(text.into()).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::app::Dependency;
    use crate::domain::job::JobKind;

    #[test]
    fn what_may_succeed_later_is_a_503_that_says_when() {
        let unavailable = |dependency| Refusal::Unavailable { dependency, source: "gone".into() };
        let retry_after = Duration::from_secs(7);
        let full = Refusal::QueueFull { kind: JobKind::Sample, limit: 1, retry_after };
        for (refusal, code, seconds) in [
            (unavailable(Dependency::Database), Code::DatabaseUnavailable, "5"),
            (unavailable(Dependency::ObjectStore), Code::StorageUnavailable, "5"),
            (full, Code::QueueFull, "7"),
        ] {
            let response = ApiError::from(refusal).into_response();

            let problem = response.extensions().get::<Problem>().unwrap();
            assert_eq!((problem.code, problem.retryable), (code, true));
            assert!(!problem.detail.contains("gone"), "causes are for the log");
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds);
        }
    }

    #[test]
    fn a_bug_is_a_500_without_its_cause() {
        let response = ApiError::from(Refusal::Internal("secret".into())).into_response();

        let problem = response.extensions().get::<Problem>().unwrap();
        assert_eq!(problem.detail, "internal error");
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().get(header::RETRY_AFTER).is_none());
    }
}
