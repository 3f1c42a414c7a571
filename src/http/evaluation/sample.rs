//! The samples of an evaluation, with their images.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::evaluation::EvaluatedSample;
use crate::app::{App, Caller};
use crate::domain::id::{EvaluationId, SampleId};
use crate::http::body::{List, ListBody, PageQuery};
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Path, Query};
use crate::http::image::ImageBody;

/// A sample of an evaluation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EvaluatedSampleBody {
    /// The sample, which is at `GET /v1/samples/{sample_id}`.
    sample: SampleId,
    /// The name of the subject.
    subject: String,
    /// What was generated.
    prompt: String,
    /// In the order of their indices; none until the sample has succeeded.
    images: Vec<ImageBody>,
}

impl From<EvaluatedSample> for EvaluatedSampleBody {
    fn from(sample: EvaluatedSample) -> Self {
        Self {
            sample: sample.sample_id,
            subject: sample.subject,
            prompt: sample.prompt,
            images: sample.images.into_iter().map(ImageBody::from).collect(),
        }
    }
}

/// Lists the samples of an evaluation with their images, newest first.
#[utoipa::path(get, path = "/v1/evaluations/{evaluation_id}/samples", tag = "evaluations",
    params(("evaluation_id" = EvaluationId, Path), PageQuery),
    responses(
        (status = 200, body = ListBody<EvaluatedSampleBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn list_evaluation_samples(
    State(app): State<App>,
    caller: Caller,
    Path(evaluation_id): Path<EvaluationId>,
    Query(query): Query<PageQuery>,
) -> Result<List<EvaluatedSampleBody>, ApiError> {
    let page = app.evaluation_samples(&caller, evaluation_id, query.page()?).await?;
    let id = |sample: &EvaluatedSample| sample.sample_id.0;
    Ok(List::new(page, id, EvaluatedSampleBody::from))
}
