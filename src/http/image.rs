//! Images: what all of them have in common, whether uploaded or generated.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{List, ListBody, ListQuery, Timestamp};
use super::content::{Content, is_current, not_modified};
use super::error::{ApiError, Problem};
use super::extract::{Path, Query};
use super::photo::body::PhotoBody;
use super::precondition::IfMatch;
use super::record::{DeletionBody, MergePatch, PatchLabels, RecordBody};
use crate::app::concept_photo::DescribedPhoto;
use crate::app::download::Downloadable;
use crate::app::{App, Caller, Precondition};
use crate::domain::composition::UsedRegion;
use crate::domain::digest::Digest;
use crate::domain::id::{ConceptId, ImageId, SampleId};
use crate::domain::image::{Image, ImageSource, ThumbnailWidth};
use crate::domain::labelled::Labelled;

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
    /// What a photo of a concept is to learn from. Photos only.
    #[serde(skip_serializing_if = "Option::is_none")]
    photo: Option<PhotoBody>,
    created_at: Timestamp,
    #[serde(flatten)]
    record: RecordBody,
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
            photo: None,
            created_at: image.created_at.into(),
            record: image.record.into(),
            url: content_path(image.image_id),
        }
    }
}

/// Path of an image's PNG.
pub(crate) fn content_path(image_id: ImageId) -> String {
    format!("/v1/images/{image_id}/content")
}

impl From<DescribedPhoto> for ImageBody {
    fn from(photo: DescribedPhoto) -> Self {
        let body = match &photo.image.source {
            ImageSource::Photo { concept_id, .. } => Some(PhotoBody::of(&photo, *concept_id)),
            ImageSource::Upload { .. } | ImageSource::Sample { .. } => None,
        };
        Self { photo: body, ..photo.image.into() }
    }
}

/// Lists the photos of a concept, newest first, with their captions and verdicts.
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
) -> Result<List<ImageBody>, ApiError> {
    let external_id = query.external_id.as_ref();
    let photos = app.photos_of_concept(&caller, &concept, external_id, query.page()?).await?;
    Ok(List::new(photos, |photo| photo.image.image_id.0, ImageBody::from))
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

/// Changes what you have attached to an image.
///
/// The image itself never changes.
#[utoipa::path(patch, path = "/v1/images/{image_id}", tag = "images", request_body = PatchLabels,
    params(("image_id" = ImageId, Path), IfMatch),
    responses(
        (status = 200, body = ImageBody, description = "As it is after the change"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`external_id_taken`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_field`, `invalid_value`"),
    ))]
pub(crate) async fn patch_image(
    State(app): State<App>,
    caller: Caller,
    Path(image_id): Path<ImageId>,
    precondition: Precondition,
    MergePatch(body): MergePatch<PatchLabels>,
) -> Result<axum::Json<ImageBody>, ApiError> {
    app.relabel(&caller, Labelled::Image(image_id), body.into(), &precondition).await?;
    Ok(axum::Json(app.image(&caller, image_id).await?.into()))
}

/// Deletes an image: a photo of a concept, an upload to start samples from, or an image of a sample.
///
/// A job that has not ended and needs it keeps its file until it has.
#[utoipa::path(delete, path = "/v1/images/{image_id}", tag = "images", params(("image_id" = ImageId, Path), IfMatch),
    responses(
        (status = 200, body = DeletionBody, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`image_in_use`: an evaluation that has not ended or a preference study shows it"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn delete_image(
    State(app): State<App>,
    caller: Caller,
    Path(image_id): Path<ImageId>,
    precondition: Precondition,
) -> Result<axum::Json<DeletionBody>, ApiError> {
    let removed = app.delete_image(&caller, None, image_id, &precondition).await?;
    Ok(DeletionBody::new(image_id, removed))
}

/// Deletes a photo of a concept.
///
/// Deltas that were trained on it stay as they are. A job that has not ended and needs it keeps its file until it has.
#[utoipa::path(delete, path = "/v1/concepts/{concept}/images/{image_id}", tag = "concepts",
    params(
        ("concept" = String, Path, description = "Id or handle"),
        ("image_id" = ImageId, Path),
        IfMatch,
    ),
    responses(
        (status = 200, body = DeletionBody, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn delete_concept_image(
    State(app): State<App>,
    caller: Caller,
    Path((concept, image_id)): Path<(String, ImageId)>,
    precondition: Precondition,
) -> Result<axum::Json<DeletionBody>, ApiError> {
    let removed = app.delete_image(&caller, Some(&concept), image_id, &precondition).await?;
    Ok(DeletionBody::new(image_id, removed))
}

/// Which copy of an image to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CopyQuery {
    /// Width of a thumbnail in pixels: 64, 128, 256, 512 or 1024. It is a WebP without manifest; an image that is narrower keeps
    /// its size. Without `w`, the image itself is returned.
    #[param(inline)]
    w: Option<ThumbnailWidth>,
}

/// Returns the image itself, as PNG, or a thumbnail of it, as WebP.
///
/// An image never changes, so a request with `If-None-Match` and the current entity tag returns 304. A single `Range` is
/// supported.
#[utoipa::path(get, path = "/v1/images/{image_id}/content", tag = "images",
    params(("image_id" = ImageId, Path), CopyQuery),
    responses(
        (status = 200, description = "OK", content((Vec<u8> = "image/png"), (Vec<u8> = "image/webp"))),
        (status = 304, description = "The client has the current file"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn get_image_content(
    State(app): State<App>,
    caller: Caller,
    Path(image_id): Path<ImageId>,
    Query(query): Query<CopyQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let image = app.image(&caller, image_id).await?;
    if let Some(width) = query.w {
        return answer_with_thumbnail(&app, &image, width, &headers).await;
    }
    let file = app.image_file(&image);
    answer_with_file(&image, file, &headers).await
}

async fn answer_with_thumbnail(
    app: &App,
    image: &Image,
    width: ThumbnailWidth,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let entity_tag = format!("{}-w{}", image.sha256.as_str(), width.pixels());
    if is_current(headers, &entity_tag) {
        return Ok(not_modified(&entity_tag));
    }
    let content = Content {
        content_type: "image/webp",
        entity_tag: &entity_tag,
        file_name: &format!("{}-{}.webp", image.image_id, width.pixels()),
    };
    content.into_response(app.thumbnail(image, width).await?, headers)
}

/// The PNG of an image, or that the client has it.
pub(super) async fn answer_with_file(
    image: &Image,
    file: Downloadable,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if is_current(headers, &image.sha256) {
        return Ok(not_modified(&image.sha256));
    }
    let content = Content {
        content_type: "image/png",
        entity_tag: &image.sha256,
        file_name: &format!("{}.png", image.image_id),
    };
    content.download(file, headers).await
}
