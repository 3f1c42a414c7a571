//! The files of an evaluation: its contact sheet and its plots.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;

use crate::app::{App, Caller};
use crate::domain::digest::Digest;
use crate::domain::id::EvaluationId;
use crate::http::content::{Content, is_current, not_modified};
use crate::http::error::{ApiError, Problem};
use crate::http::extract::Path;

/// Returns the contact sheet of an evaluation, as PNG: a prompt to the row, a subject to the column.
#[utoipa::path(get, path = "/v1/evaluations/{evaluation_id}/sheet.png", tag = "evaluations",
    params(("evaluation_id" = EvaluationId, Path)),
    responses(
        (status = 200, content_type = "image/png", body = Vec<u8>, description = "OK"),
        (status = 304, description = "The client has the current file"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such evaluation, or it has not succeeded"),
    ))]
pub(crate) async fn get_evaluation_sheet(
    State(app): State<App>,
    caller: Caller,
    Path(evaluation_id): Path<EvaluationId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let bytes = app.evaluation_sheet(&caller, evaluation_id).await?;
    let digest = Digest::of(&bytes);
    if is_current(&headers, &digest) {
        return Ok(not_modified(&digest));
    }
    let file_name = &format!("{evaluation_id}.png");
    Content { content_type: "image/png", entity_tag: &digest, file_name }
        .into_response(bytes, &headers)
}

/// Returns a plot of the subjects' text-alignment against their image-alignment, as SVG.
#[utoipa::path(get, path = "/v1/evaluations/{evaluation_id}/alignment.svg", tag = "evaluations",
    params(("evaluation_id" = EvaluationId, Path)),
    responses(
        (status = 200, content_type = "image/svg+xml", body = String, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such evaluation, or it has not succeeded"),
    ))]
pub(crate) async fn get_evaluation_alignment(
    State(app): State<App>,
    caller: Caller,
    Path(evaluation_id): Path<EvaluationId>,
) -> Result<Response, ApiError> {
    Ok(svg(app.evaluation_alignment(&caller, evaluation_id).await?))
}

/// Returns the loss curves of the trainings whose deltas are evaluated, smoothed, as SVG.
#[utoipa::path(get, path = "/v1/evaluations/{evaluation_id}/loss.svg", tag = "evaluations",
    params(("evaluation_id" = EvaluationId, Path)),
    responses(
        (status = 200, content_type = "image/svg+xml", body = String, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_evaluation_losses(
    State(app): State<App>,
    caller: Caller,
    Path(evaluation_id): Path<EvaluationId>,
) -> Result<Response, ApiError> {
    Ok(svg(app.evaluation_losses(&caller, evaluation_id).await?))
}

fn svg(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("image/svg+xml");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
