//! Manifests: what a generated image was made from.

use axum::extract::State;

use super::error::{ApiError, Problem};
use super::extract::Path;
use crate::app::{App, Caller};
use crate::domain::id::ImageId;
use crate::domain::manifest::Manifest;

/// Returns what a generated image was made from.
///
/// The same object is embedded in the PNG, in the iTXt chunk `vstar.manifest`. Send it as `from_manifest` to
/// `POST /v1/samples` to generate the image again. Uploaded images have no manifest.
#[utoipa::path(get, path = "/v1/images/{image_id}/manifest", tag = "images",
    params(("image_id" = ImageId, Path)),
    responses(
        (status = 200, body = Manifest, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_manifest(
    State(app): State<App>,
    caller: Caller,
    Path(image_id): Path<ImageId>,
) -> Result<axum::Json<Manifest>, ApiError> {
    Ok(axum::Json(app.manifest(&caller, image_id).await?))
}
