//! Errors as RFC 9457 problems: the only place that knows their body.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower_http::request_id::RequestId;
use utoipa::ToSchema;

use crate::domain::code::Code;
use crate::domain::id::JobId;
use crate::domain::invalid::{FieldError, Invalid};
use crate::merge_desk::DeskError;
use crate::storage::StorageError;

/// Why a request was not done: one variant per kind of answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The request is understood, and cannot be done as it stands.
    #[error("the request is not valid")]
    Invalid(#[from] Invalid),
    /// The body is not what its type says.
    #[error("{0}")]
    Malformed(String),
    #[error("no {what} `{id}`")]
    NotFound { what: &'static str, id: String },
    #[error("no such path: {0}")]
    NoRoute(String),
    #[error("this path has other methods")]
    MethodNotAllowed,
    #[error("{0}")]
    UnsupportedMediaType(String),
    #[error("the body has more than {limit_bytes} bytes")]
    BodyTooLarge { limit_bytes: usize },
    /// What is asked for contradicts what is there.
    #[error("{}", .0.detail)]
    Conflict(FieldError),
    #[error("the range lies outside of the {size_bytes} bytes")]
    RangeNotSatisfiable { size_bytes: usize },
    /// As many jobs of the kind wait as may; the client comes again later.
    #[error("{limit} {kind}s wait already, no more are taken on: send it again in {} s", .retry_after.as_secs())]
    QueueFull { kind: &'static str, limit: usize, retry_after: Duration },
    #[error("the database cannot be reached")]
    DatabaseUnavailable(#[source] sqlx::Error),
    #[error("the object store failed")]
    Storage(#[from] StorageError),
    /// A bug or a broken invariant; the client learns nothing but the request's id.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => {
                Self::DatabaseUnavailable(error)
            }
            _ => Self::Internal(error.into()),
        }
    }
}

impl From<DeskError> for ApiError {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Storage(error) => error.into(),
            error => Self::Internal(error.into()),
        }
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        Self::Invalid(error.into())
    }
}

impl ApiError {
    pub(crate) fn not_found(what: &'static str, id: impl std::fmt::Display) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    /// A row of the catalog that contradicts itself.
    pub(crate) fn wrong_task(job_id: JobId) -> Self {
        Self::Internal(format!("the task of {job_id} is not of its kind").into())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::NotFound { .. } | Self::NoRoute(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::QueueFull { .. } | Self::DatabaseUnavailable(_) | Self::Storage(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Invalid(invalid) => match invalid.0.as_slice() {
                // Most clients look at one code only: give them the telling one where there is one.
                [first, rest @ ..] if rest.iter().all(|error| error.code == first.code) => {
                    first.code
                }
                _ => Code::ValidationFailed,
            },
            Self::Malformed(_) => Code::MalformedBody,
            Self::NotFound { .. } => Code::NotFound,
            Self::NoRoute(_) => Code::NoSuchPath,
            Self::MethodNotAllowed => Code::MethodNotAllowed,
            Self::UnsupportedMediaType(_) => Code::UnsupportedMediaType,
            Self::BodyTooLarge { .. } => Code::BodyTooLarge,
            Self::Conflict(error) => error.code,
            Self::RangeNotSatisfiable { .. } => Code::RangeNotSatisfiable,
            Self::QueueFull { .. } => Code::QueueFull,
            Self::DatabaseUnavailable(_) => Code::DatabaseUnavailable,
            Self::Storage(_) => Code::StorageUnavailable,
            Self::Internal(_) => Code::InternalError,
        }
    }

    fn problem(&self) -> Problem {
        let status = self.status();
        let errors: &[FieldError] = match self {
            Self::Invalid(invalid) => &invalid.0,
            Self::Conflict(error) => std::slice::from_ref(error),
            _ => &[],
        };
        let detail = match errors {
            [] => self.to_string(),
            errors => {
                errors.iter().map(|error| error.detail.as_str()).collect::<Vec<_>>().join("; ")
            }
        };
        let retryable = status == StatusCode::SERVICE_UNAVAILABLE;
        Problem {
            r#type: problem_type(self.code()),
            title: title(status).to_owned(),
            status: status.as_u16(),
            code: self.code(),
            detail,
            errors: errors.iter().map(ProblemField::from).collect(),
            request_id: None,
            retryable,
        }
    }
}

/// Why a request was not done, after RFC 9457. Programs should look at `code`, people at `detail`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// The kind of problem as a URI.
    #[serde(rename = "type")]
    #[schema(examples("urn:vstar:problem:prompt_too_long"))]
    r#type: String,
    title: String,
    status: u16,
    code: Code,
    /// What is wrong and, where somebody can mend it, how.
    detail: String,
    /// Field by field, if the request is at fault.
    errors: Vec<ProblemField>,
    /// Names the request in the server's log.
    request_id: Option<String>,
    /// Whether the same request may succeed later.
    retryable: bool,
}

/// What is wrong with one field.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct ProblemField {
    /// JSON pointer into the request's body, or the name of a query parameter.
    #[schema(examples("/prompt"))]
    pointer: String,
    code: Code,
    detail: String,
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
        match &self {
            Self::DatabaseUnavailable(_) | Self::Storage(_) | Self::Internal(_) => {
                tracing::error!(error = chain(&self), "request failed");
            }
            _ => tracing::debug!(error = %self, code = self.code().as_str(), "request refused"),
        }
        let mut response = self.status().into_response();
        if let Self::RangeNotSatisfiable { size_bytes } = self
            && let Ok(value) = HeaderValue::try_from(format!("bytes */{size_bytes}"))
        {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
        if let Self::QueueFull { retry_after, .. } = self {
            response.headers_mut().insert(header::RETRY_AFTER, retry_after.as_secs().into());
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
    ApiError::Internal(text.into()).into_response()
}
