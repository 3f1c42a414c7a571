//! Health: is the process alive, and can it serve.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, Problem};
use crate::app::{App, Readiness, Refusal};

/// When to ask again whether fewer jobs wait.
const READY_AGAIN: Duration = Duration::from_secs(5);

/// The state of the service.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthBody {
    /// Always `ok`; what is not is a problem.
    #[schema(value_type = String, examples("ok"))]
    status: &'static str,
}

/// Returns 200 while the process is alive, whatever it depends on.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, body = HealthBody, description = "OK")))]
pub(crate) async fn livez() -> Json<HealthBody> {
    Json(HealthBody { status: "ok" })
}

/// Returns 200 while the service can answer requests.
///
/// It cannot when the database does not respond within a second, when the object store does not, or once the process has been
/// asked to end. The object store is probed every 30 seconds at most. With the setting `--ready-queue-depth`, neither while
/// more jobs of one kind wait than that.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses(
        (status = 200, body = HealthBody, description = "OK"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            description = "`shutting_down`, `database_unavailable`, `storage_unavailable`, `queue_full`"),
    ))]
pub(crate) async fn readyz(State(app): State<App>) -> Response {
    let unready = match app.readiness().await {
        Readiness::Ready => return Json(HealthBody { status: "ok" }).into_response(),
        Readiness::ShuttingDown => ApiError::ShuttingDown,
        Readiness::Unavailable(dependency) => ApiError::from(Refusal::Unavailable {
            dependency,
            source: "see the line before".into(),
        }),
        Readiness::QueueDeep { kind, queued: limit } => {
            ApiError::from(Refusal::QueueFull { kind, limit, retry_after: READY_AGAIN })
        }
    };
    let mut response = unready.into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
