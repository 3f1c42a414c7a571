//! Photos of concepts: captions, masks, and how good they are to learn from.

pub(super) mod body;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::body::FindingBody;
use super::content::{Content, is_current, not_modified};
use super::error::{ApiError, Problem};
use super::extract::Path;
use super::file::only_file;
use super::image::ImageBody;
use super::precondition::IfMatch;
use super::record::{MergePatch, present};
use crate::app::concept_photo::{PhotoChange, PhotoCheck};
use crate::app::{App, Caller, Precondition};
use crate::domain::caption::tidy;
use crate::domain::code::Code;
use crate::domain::concept::Handle;
use crate::domain::id::{ConceptId, ImageId};
use crate::domain::invalid::FieldError;
use crate::domain::photo::{MAX_PHOTO_CAPTION, PhotoVerdict};

/// What a concept's photos are together.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PhotoCheckBody {
    #[schema(value_type = String, examples("photo_check"))]
    object: &'static str,
    concept: ConceptId,
    handle: Handle,
    /// `ok`: nothing speaks against a training. `warn`: it is accepted, with warnings. `fail`: it is refused.
    verdict: PhotoVerdict,
    /// The number of photos.
    image_count: usize,
    /// About all photos together.
    findings: Vec<FindingBody>,
    /// The photos, oldest first, each with its own verdict.
    data: Vec<ImageBody>,
}

impl From<PhotoCheck> for PhotoCheckBody {
    fn from(check: PhotoCheck) -> Self {
        Self {
            object: "photo_check",
            concept: check.concept.concept_id,
            handle: check.concept.handle.clone(),
            verdict: check.verdict(),
            image_count: check.photos.len(),
            findings: check.findings.iter().map(FindingBody::from).collect(),
            data: check.photos.into_iter().map(ImageBody::from).collect(),
        }
    }
}

/// Checks the photos of a concept.
///
/// Looks at each photo and at all of them together, as a training would be warned of them. Photos that an earlier version has added
/// are measured now, so the first check of many may take some seconds.
#[utoipa::path(post, path = "/v1/concepts/{concept}/check", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle")),
    responses(
        (status = 200, body = PhotoCheckBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn check_photos(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
) -> Result<axum::Json<PhotoCheckBody>, ApiError> {
    Ok(axum::Json(app.check_photos(&caller, &concept).await?.into()))
}

/// Returns the check of a concept's photos.
///
/// The same as `POST`, for clients that only read.
#[utoipa::path(get, path = "/v1/concepts/{concept}/check", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle")),
    responses(
        (status = 200, body = PhotoCheckBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn get_photo_check(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
) -> Result<axum::Json<PhotoCheckBody>, ApiError> {
    Ok(axum::Json(app.check_photos(&caller, &concept).await?.into()))
}

/// What to change of a photo.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangePhoto {
    /// The new caption, at most 2000 bytes and no longer than the text encoder takes. Null or an empty text removes it.
    #[schema(value_type = Option<String>)]
    #[serde(default, deserialize_with = "present")]
    caption: Option<Option<String>>,
}

/// Changes the caption of a photo.
///
/// Trainings that have been started are not affected.
#[utoipa::path(patch, path = "/v1/concepts/{concept}/images/{image_id}", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle"), ("image_id" = ImageId, Path), IfMatch),
    request_body = ChangePhoto,
    responses(
        (status = 200, body = ImageBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`caption_unreadable`, `prompt_too_long`, `unknown_field`, `invalid_value`"),
    ))]
pub(crate) async fn change_photo(
    State(app): State<App>,
    caller: Caller,
    Path((concept, image_id)): Path<(String, ImageId)>,
    precondition: Precondition,
    MergePatch(body): MergePatch<ChangePhoto>,
) -> Result<axum::Json<ImageBody>, ApiError> {
    let found = app.find_concept(&caller, &concept).await?;
    let Some(caption) = body.caption else {
        return Ok(axum::Json(app.photo_of_concept(&caller, &found, image_id).await?.into()));
    };
    let caption = tidy(caption.as_deref().unwrap_or_default(), MAX_PHOTO_CAPTION);
    let caption = caption
        .map_err(|fault| FieldError::new("/caption", Code::CaptionUnreadable, fault.reason))?;
    let caption = Some(caption).filter(|caption| !caption.is_empty());
    if let Some(caption) = &caption {
        app.check_caption(&found, caption, "/caption")?;
    }
    let change = PhotoChange::Caption(caption);
    Ok(axum::Json(
        app.change_photo(&caller, &concept, image_id, change, &precondition).await?.into(),
    ))
}

/// A subject mask.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; its one part is read as it comes")]
pub(crate) struct MaskForm {
    /// A PNG, JPEG or WebP file of the photo's shape, white where the subject is. A training learns from the white part.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Sets the subject mask of a photo, in place of the one that it has.
#[utoipa::path(put, path = "/v1/concepts/{concept}/images/{image_id}/mask", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle"), ("image_id" = ImageId, Path), IfMatch),
    request_body(content = MaskForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = ImageBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`mask_unusable`, `image_unreadable`, `image_too_large`, `missing_field`"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn set_mask(
    State(app): State<App>,
    caller: Caller,
    Path((concept, image_id)): Path<(String, ImageId)>,
    precondition: Precondition,
    request: Request,
) -> Result<axum::Json<ImageBody>, ApiError> {
    let found = app.find_concept(&caller, &concept).await?;
    app.photo_of_concept(&caller, &found, image_id).await?;
    let file = only_file(&app, request, "mask").await?;
    let mask = app.stage_mask(&caller, &found, file).await?;
    let mask = mask.map_err(|error| FieldError::new("/file", error.code(), error.to_string()))?;
    let change = PhotoChange::Mask(Some(mask.clone()));
    match app.change_photo(&caller, &concept, image_id, change, &precondition).await {
        Ok(photo) => Ok(axum::Json(photo.into())),
        Err(refusal) => {
            app.discard_masks(&caller, &found, [mask]).await;
            Err(refusal.into())
        }
    }
}

/// Removes the subject mask of a photo.
#[utoipa::path(delete, path = "/v1/concepts/{concept}/images/{image_id}/mask", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle"), ("image_id" = ImageId, Path), IfMatch),
    responses(
        (status = 200, body = ImageBody, description = "OK; the photo without a mask"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn delete_mask(
    State(app): State<App>,
    caller: Caller,
    Path((concept, image_id)): Path<(String, ImageId)>,
    precondition: Precondition,
) -> Result<axum::Json<ImageBody>, ApiError> {
    let change = PhotoChange::Mask(None);
    Ok(axum::Json(
        app.change_photo(&caller, &concept, image_id, change, &precondition).await?.into(),
    ))
}

/// Returns the subject mask of a photo, as a gray PNG.
#[utoipa::path(get, path = "/v1/concepts/{concept}/images/{image_id}/mask", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle"), ("image_id" = ImageId, Path)),
    responses(
        (status = 200, content_type = "image/png", body = Vec<u8>, description = "OK"),
        (status = 304, description = "The client has the current file"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_mask(
    State(app): State<App>,
    caller: Caller,
    Path((concept, image_id)): Path<(String, ImageId)>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let concept = app.find_concept(&caller, &concept).await?;
    let photo = app.photo_of_concept(&caller, &concept, image_id).await?;
    let (file, sha256) = app.mask_file(&caller, &concept, &photo)?;
    if is_current(&headers, &sha256) {
        return Ok(not_modified(&sha256));
    }
    let content = Content {
        content_type: "image/png",
        entity_tag: &sha256,
        file_name: &format!("{image_id}-mask.png"),
    };
    content.download(file, &headers).await
}
