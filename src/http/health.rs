//! Health: is the process alive, and can it serve.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;

/// The state of the service.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthBody {
    /// `ok`, `shutting_down` or `database_unavailable`.
    #[schema(value_type = String, examples("ok"))]
    status: &'static str,
}

/// Answers as long as the process lives.
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, body = HealthBody)))]
pub(crate) async fn livez() -> axum::Json<HealthBody> {
    axum::Json(HealthBody { status: "ok" })
}

/// Answers 200 while requests can be served: the database answers, and nobody has asked the process to end.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = HealthBody), (status = 503, body = HealthBody)))]
pub(crate) async fn readyz(State(app): State<App>) -> (StatusCode, axum::Json<HealthBody>) {
    if app.shutdown.is_cancelled() {
        let body = HealthBody { status: "shutting_down" };
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body));
    }
    let ping = async { app.db.acquire().await.is_ok() };
    match tokio::time::timeout(Duration::from_secs(1), ping).await {
        Ok(true) => (StatusCode::OK, axum::Json(HealthBody { status: "ok" })),
        Ok(false) | Err(_) => {
            let body = HealthBody { status: "database_unavailable" };
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body))
        }
    }
}
