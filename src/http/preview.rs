//! Previews: what a running sample's images look like so far.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::error::{ApiError, Problem};
use super::extract::Path;
use crate::app::{App, Caller};
use crate::domain::id::SampleId;
use crate::domain::job::PreviewStep;

/// Returns the newest preview of one image of a running sample, as a small PNG.
///
/// Samples with `preview_every` make previews, and their events announce them. Previews are deleted when the sample ends.
#[utoipa::path(get, path = "/v1/samples/{sample_id}/previews/{index}", tag = "samples",
    params(("sample_id" = SampleId, Path), ("index" = i32, Path, description = "Index of the image")),
    responses(
        (status = 200, content_type = "image/png", body = Vec<u8>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "The image has no preview yet, or the sample has ended"),
    ))]
pub(crate) async fn get_preview(
    State(app): State<App>,
    caller: Caller,
    Path((sample_id, index)): Path<(SampleId, i32)>,
) -> Result<Response, ApiError> {
    let preview = app.preview(&caller, sample_id, index).await?;
    let headers = [(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, preview.png).into_response())
}

/// The path of a preview. The step makes it a new path for clients that show again what they have seen under one.
pub(crate) fn preview_path(sample: SampleId, PreviewStep { index, step }: PreviewStep) -> String {
    format!("/v1/samples/{sample}/previews/{index}?step={step}")
}
