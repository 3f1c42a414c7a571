//! Health: is the process alive, and can it serve.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{App, Readiness};

/// The state of the service.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthBody {
    /// `ok`, `shutting_down` or `database_unavailable`.
    #[schema(value_type = String, examples("ok"))]
    status: &'static str,
}

/// Returns 200 while the process is alive.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, body = HealthBody, description = "OK")))]
pub(crate) async fn livez() -> axum::Json<HealthBody> {
    axum::Json(HealthBody { status: "ok" })
}

/// Returns 200 while the service can answer requests.
///
/// It cannot when the database does not respond within a second, or once the process has been asked to stop.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses(
        (status = 200, body = HealthBody, description = "OK"),
        (status = 503, body = HealthBody, description = "The service cannot answer requests now"),
    ))]
pub(crate) async fn readyz(State(app): State<App>) -> (StatusCode, axum::Json<HealthBody>) {
    let (status, text) = match app.readiness().await {
        Readiness::Ready => (StatusCode::OK, "ok"),
        Readiness::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
        Readiness::DatabaseUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable"),
    };
    (status, axum::Json(HealthBody { status: text }))
}
