//! Image sets: captioned images, uploaded, generated, or of the base model.

mod retrieval;
mod upload;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{List, ListBody, ListQuery, PageQuery, Timestamp};
use super::content::{Content, is_current, not_modified};
use super::error::{ApiError, Problem};
use super::extract::{Path, Query};
use super::precondition::IfMatch;
use super::record::{DeletionBody, MergePatch, PatchLabels, RecordBody};
use crate::app::{App, Caller, Precondition};
use crate::domain::code::Code;
use crate::domain::digest::Digest;
use crate::domain::id::ImageSetId;
use crate::domain::image_set::{Generation, ImageSet, ImageSetSource, SetImage, Verdicts};
use crate::domain::invalid::FieldError;
use crate::domain::labelled::Labelled;

pub(crate) use retrieval::*;
pub(crate) use upload::*;

/// A set of captioned images.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageSetBody {
    id: ImageSetId,
    #[schema(value_type = String, examples("image_set"))]
    object: &'static str,
    /// A name for people.
    name: String,
    source: ImageSetSource,
    /// The digest of the images and their captions. Sets with the same digest are the same for every training, whatever their
    /// archives, file names and names are.
    digest: Digest,
    /// Size of all images in bytes.
    size_bytes: i64,
    /// The number of images.
    image_count: i32,
    /// The number of images that have a caption.
    caption_count: i32,
    /// What was noticed about the uploaded files. Lists have the numbers only.
    verdicts: Verdicts,
    /// How the set was generated. Generated sets only.
    generation: Option<Generation>,
    created_at: Timestamp,
    #[serde(flatten)]
    record: RecordBody,
    /// Path of the list of images.
    images_url: String,
}

impl From<ImageSet> for ImageSetBody {
    fn from(set: ImageSet) -> Self {
        Self {
            id: set.image_set_id,
            object: "image_set",
            name: set.name,
            source: set.source,
            digest: set.digest,
            size_bytes: set.size_bytes,
            image_count: set.image_count,
            caption_count: set.caption_count,
            verdicts: set.verdicts,
            generation: set.generation,
            created_at: set.created_at.into(),
            record: set.record.into(),
            images_url: format!("/v1/image-sets/{}/images", set.image_set_id),
        }
    }
}

/// An image of a set.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SetImageBody {
    /// The place of the image in the set, counted from 0.
    index: i32,
    /// The path of the file in the archive or folder that it came in.
    path: String,
    /// Null if the image has none.
    caption: Option<String>,
    /// The digest of the file.
    sha256: Digest,
    /// Size of the file in bytes.
    size_bytes: i64,
    /// Path of the file.
    url: String,
}

impl SetImageBody {
    fn new(set: ImageSetId, image: SetImage) -> Self {
        Self {
            url: format!("/v1/image-sets/{set}/images/{}/content", image.index),
            index: image.index,
            path: image.path,
            caption: Some(image.caption).filter(|caption| !caption.is_empty()),
            sha256: image.sha256,
            size_bytes: image.size_bytes,
        }
    }
}

/// Lists image sets, newest first.
#[utoipa::path(get, path = "/v1/image-sets", tag = "image sets", params(ListQuery),
    responses((status = 200, body = ListBody<ImageSetBody>, description = "OK")))]
pub(crate) async fn list_image_sets(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<List<ImageSetBody>, ApiError> {
    let page = app.image_sets(&caller, query.external_id.as_ref(), query.page()?).await?;
    let body = |mut set: ImageSet| {
        set.verdicts.files.clear();
        ImageSetBody::from(set)
    };
    Ok(List::new(page, |set| set.image_set_id.0, body))
}

/// Returns an image set.
#[utoipa::path(get, path = "/v1/image-sets/{set}", tag = "image sets",
    params(("set" = String, Path, description = "Id or digest")),
    responses(
        (status = 200, body = ImageSetBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_image_set(
    State(app): State<App>,
    caller: Caller,
    Path(set): Path<String>,
) -> Result<axum::Json<ImageSetBody>, ApiError> {
    Ok(axum::Json(app.image_set(&caller, &set).await?.into()))
}

/// Changes what you have attached to an image set.
///
/// Its images never change.
#[utoipa::path(patch, path = "/v1/image-sets/{set}", tag = "image sets", request_body = PatchLabels,
    params(("set" = ImageSetId, Path), IfMatch),
    responses(
        (status = 200, body = ImageSetBody, description = "As it is after the change"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`external_id_taken`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_field`, `invalid_value`"),
    ))]
pub(crate) async fn patch_image_set(
    State(app): State<App>,
    caller: Caller,
    Path(set): Path<ImageSetId>,
    precondition: Precondition,
    MergePatch(body): MergePatch<PatchLabels>,
) -> Result<axum::Json<ImageSetBody>, ApiError> {
    app.relabel(&caller, Labelled::ImageSet(set), body.into(), &precondition).await?;
    Ok(axum::Json(app.image_set(&caller, &set.to_string()).await?.into()))
}

/// Deletes an image set.
///
/// Trainings that have named it are not affected: they name its images by their digest, and those are kept. The class images of
/// the base model that is served cannot be deleted.
#[utoipa::path(delete, path = "/v1/image-sets/{set}", tag = "image sets",
    params(("set" = ImageSetId, Path), IfMatch),
    responses(
        (status = 200, body = DeletionBody, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`image_set_in_use`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn delete_image_set(
    State(app): State<App>,
    caller: Caller,
    Path(set): Path<ImageSetId>,
    precondition: Precondition,
) -> Result<axum::Json<DeletionBody>, ApiError> {
    let removed = app.delete_image_set(&caller, set, &precondition).await?;
    Ok(DeletionBody::new(set, removed))
}

/// Lists the images of a set, in the order of their paths.
#[utoipa::path(get, path = "/v1/image-sets/{set}/images", tag = "image sets",
    params(("set" = String, Path, description = "Id or digest"), PageQuery),
    responses(
        (status = 200, body = ListBody<SetImageBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn list_set_images(
    State(app): State<App>,
    caller: Caller,
    Path(set): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<List<SetImageBody>, ApiError> {
    let page = query.page()?;
    let set = app.image_set(&caller, &set).await?.image_set_id;
    let after = page.after.map_or(Ok(-1), place_of)?;
    let images = app.images_of_set(&caller, &set.to_string(), after, page.limit).await?;
    let body = |image| SetImageBody::new(set, image);
    Ok(List::new(images, |image| cursor_of(image.index), body))
}

/// The cursor of a place: lists have UUIDs as cursors.
fn cursor_of(place: i32) -> Uuid {
    Uuid::from_u128(u128::from(place.unsigned_abs()))
}

fn place_of(cursor: Uuid) -> Result<i32, FieldError> {
    i32::try_from(cursor.as_u128()).map_err(|_| {
        let detail = "`after` is the next_cursor of a list of this kind";
        FieldError::new("after", Code::InvalidCursor, detail)
    })
}

/// Returns the file of one image of a set, as it was uploaded.
///
/// It never changes, so a request with `If-None-Match` and the current entity tag returns 304. A single `Range` is supported.
#[utoipa::path(get, path = "/v1/image-sets/{set}/images/{index}/content", tag = "image sets",
    params(("set" = String, Path, description = "Id or digest"), ("index" = i32, Path, description = "The place of the image in the set, counted from 0")),
    responses(
        (status = 200, description = "OK", content(
            (Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"))),
        (status = 304, description = "The client has the current file"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_set_image_content(
    State(app): State<App>,
    caller: Caller,
    Path((set, index)): Path<(String, i32)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (set, image) = app.image_of_set(&caller, &set, index).await?;
    if is_current(&headers, &image.sha256) {
        return Ok(not_modified(&image.sha256));
    }
    let file = app.file_of_set(&caller, &set, &image);
    let (content_type, extension) = media_type(&file.beginning().await?);
    let content = Content {
        content_type,
        entity_tag: &image.sha256,
        file_name: &format!("{}-{index}.{extension}", set.image_set_id),
    };
    content.download(file, &headers).await
}

/// What a file is, by its first bytes: its name may say something else.
fn media_type(bytes: &[u8]) -> (&'static str, &'static str) {
    match bytes {
        [0xff, 0xd8, ..] => ("image/jpeg", "jpg"),
        [b'R', b'I', b'F', b'F', ..] => ("image/webp", "webp"),
        _ => ("image/png", "png"),
    }
}
