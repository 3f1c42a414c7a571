//! The loss curve of a training.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::app::{App, Caller};
use crate::domain::id::TrainingId;
use crate::domain::invalid::Checks;
use crate::domain::job::Metric;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Path, Query};

/// Which part of a loss curve to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MetricsQuery {
    /// Return only steps after this one. Defaults to 0, which returns all.
    #[serde(default)]
    #[param(minimum = 0, default = 0)]
    since_step: i32,
    /// The maximum number of points to return, from 1 to 10000. Defaults to 10000.
    #[serde(default = "default_metrics")]
    #[param(minimum = 1, maximum = 10000, default = 10000)]
    limit: i64,
}

fn default_metrics() -> i64 {
    10_000
}

/// A loss curve.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MetricsBody {
    #[schema(value_type = String, examples("metrics"))]
    object: &'static str,
    /// One point per step, in order. Steps count from 1.
    data: Vec<Metric>,
}

/// Returns the loss curve of a training up to now.
#[utoipa::path(get, path = "/v1/trainings/{training_id}/metrics", tag = "trainings",
    params(("training_id" = TrainingId, Path), MetricsQuery),
    responses(
        (status = 200, body = MetricsBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_training_metrics(
    State(app): State<App>,
    caller: Caller,
    Path(training_id): Path<TrainingId>,
    Query(query): Query<MetricsQuery>,
) -> Result<axum::Json<MetricsBody>, ApiError> {
    let mut checks = Checks::default();
    checks.in_range(query.since_step, 0..=i32::MAX, "since_step");
    checks.in_range(query.limit, 1..=10_000, "limit");
    checks.finish()?;
    let MetricsQuery { since_step, limit } = query;
    let data = app.training_metrics(&caller, training_id, since_step, limit).await?;
    Ok(axum::Json(MetricsBody { object: "metrics", data }))
}
