//! Previews: what a running sample's pictures look like so far.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::error::{ApiError, Problem};
use super::extract::Path;
use super::job::find_job;
use crate::app::App;
use crate::db;
use crate::domain::id::{JobId, SampleId};
use crate::domain::job::{JobKind, PreviewStep};

/// Returns the newest preview of one picture of a running sample, as a small PNG.
///
/// Samples with `preview_every` make previews; their events say when there are new ones. They are gone when the sample
/// has ended.
#[utoipa::path(get, path = "/v1/samples/{sample_id}/previews/{index}", tag = "samples",
    params(("sample_id" = SampleId, Path), ("index" = i32, Path, description = "Index of the picture")),
    responses(
        (status = 200, content_type = "image/png", body = Vec<u8>),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "There is none yet, or none any more"),
    ))]
pub(crate) async fn get_preview(
    State(app): State<App>,
    Path((sample_id, index)): Path<(SampleId, i32)>,
) -> Result<Response, ApiError> {
    let job_id = JobId::from(sample_id);
    find_job(&app, job_id, JobKind::Sample).await?;
    let preview = db::preview::find(&app.db, job_id, index).await?;
    let preview = preview.ok_or_else(|| ApiError::not_found("preview of picture", index))?;
    let headers = [(header::CONTENT_TYPE, "image/png"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, preview.png).into_response())
}

/// Where a preview is. The step makes the path new, for clients that show what they have seen under a path.
pub(crate) fn preview_path(sample: SampleId, PreviewStep { index, step }: PreviewStep) -> String {
    format!("/v1/samples/{sample}/previews/{index}?step={step}")
}
