//! Metrics, for Prometheus.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};

use crate::app::App;
use crate::metrics::Metrics;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// The metrics alone, for a process that answers nothing else.
pub fn metrics_router(metrics: Metrics) -> Router {
    let render = async move || ([(header::CONTENT_TYPE, TEXT)], metrics.render().await);
    Router::new().route("/metrics", axum::routing::get(render))
}

/// Returns the metrics of this process and of the queue, in the text format of Prometheus.
///
/// Figures of the queue are at most 5 seconds old. If the database does not answer, they are missing and `vstar_database_up`
/// is 0.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "text/plain", description = "OK")))]
pub(crate) async fn metrics(State(app): State<App>) -> ([(HeaderName, HeaderValue); 1], String) {
    ([(header::CONTENT_TYPE, TEXT)], app.metrics().await)
}
