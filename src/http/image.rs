//! Images: what all of them have in common, whether uploaded or generated.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::{ListBody, ListQuery, Timestamp};
use super::content::{Content, is_current, not_modified};
use super::error::{ApiError, Problem};
use super::extract::{Path, Query};
use crate::app::{App, Caller};
use crate::domain::composition::UsedRegion;
use crate::domain::digest::Digest;
use crate::domain::id::{ConceptId, ImageId, SampleId};
use crate::domain::image::{Image, ImageSource};

/// A photo of a concept, an upload to start samples from, or a generated image.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageBody {
    id: ImageId,
    #[schema(value_type = String, examples("image"))]
    object: &'static str,
    /// The concept that a photo belongs to.
    concept: Option<ConceptId>,
    /// The name of the uploaded file.
    file_name: Option<String>,
    /// The sample that generated the image.
    sample: Option<SampleId>,
    /// The index of a generated image among the images of its seed.
    index: Option<i32>,
    /// Width in pixels.
    width: i32,
    /// Height in pixels.
    height: i32,
    /// Size of the PNG in bytes.
    size_bytes: i64,
    /// The digest of the PNG.
    sha256: Digest,
    /// Where concepts were drawn, if the image was composed by regions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    regions: Vec<UsedRegion>,
    created_at: Timestamp,
    /// Path of the PNG.
    #[schema(examples("/v1/images/img_01jd8q2m5xet8v3k9c0r4n7w6a/content"))]
    url: String,
}

impl From<Image> for ImageBody {
    fn from(image: Image) -> Self {
        let (concept, file_name, sample, index) = match image.source {
            ImageSource::Photo { concept_id, file_name } => {
                (Some(concept_id), file_name, None, None)
            }
            ImageSource::Upload { file_name } => (None, file_name, None, None),
            ImageSource::Sample { sample_id, index } => (None, None, Some(sample_id), Some(index)),
        };
        Self {
            id: image.image_id,
            object: "image",
            concept,
            file_name,
            sample,
            index,
            width: image.width,
            height: image.height,
            size_bytes: image.size_bytes,
            sha256: image.sha256,
            regions: image.regions,
            created_at: image.created_at.into(),
            url: format!("/v1/images/{}/content", image.image_id),
        }
    }
}

/// Lists the photos of a concept, newest first.
#[utoipa::path(get, path = "/v1/concepts/{concept}/images", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle"), ListQuery),
    responses(
        (status = 200, body = ListBody<ImageBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn list_concept_images(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<ListBody<ImageBody>>, ApiError> {
    let images = app.images_of_concept(&caller, &concept, query.page()?).await?;
    Ok(axum::Json(ListBody::new(images, |image| image.image_id.0, ImageBody::from)))
}

/// Returns what is known about an image.
#[utoipa::path(get, path = "/v1/images/{image_id}", tag = "images",
    params(("image_id" = ImageId, Path)),
    responses(
        (status = 200, body = ImageBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_image(
    State(app): State<App>,
    caller: Caller,
    Path(image_id): Path<ImageId>,
) -> Result<axum::Json<ImageBody>, ApiError> {
    Ok(axum::Json(app.image(&caller, image_id).await?.into()))
}

/// Returns the image itself, as PNG.
///
/// An image never changes, so a request with `If-None-Match` and the current entity tag returns 304. A single `Range` is
/// supported.
#[utoipa::path(get, path = "/v1/images/{image_id}/content", tag = "images",
    params(("image_id" = ImageId, Path)),
    responses(
        (status = 200, content_type = "image/png", body = Vec<u8>, description = "OK"),
        (status = 304, description = "The client has the current file"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_image_content(
    State(app): State<App>,
    caller: Caller,
    Path(image_id): Path<ImageId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let image = app.image(&caller, image_id).await?;
    if is_current(&headers, &image.sha256) {
        return Ok(not_modified(&image.sha256));
    }
    let content = Content {
        content_type: "image/png",
        entity_tag: &image.sha256,
        file_name: &format!("{image_id}.png"),
    };
    content.download(app.image_file(&caller, &image), &headers).await
}
