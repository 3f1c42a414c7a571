//! Presigned uploads: announced here, sent to the object store, completed here.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{Timestamp, location};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path};
use super::image::ImageBody;
use crate::app::upload::{CompletedUpload, NewUpload, OpenUpload, UploadedImage};
use crate::app::{App, Caller};
use crate::domain::caption::tidy;
use crate::domain::code::Code;
use crate::domain::digest::Digest;
use crate::domain::id::{ConceptId, UploadId};
use crate::domain::image::MAX_PHOTO_BYTES;
use crate::domain::invalid::FieldError;
use crate::domain::photo::MAX_PHOTO_CAPTION;
use crate::domain::upload::Upload;

/// A file that is going to be sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnnounceUpload {
    /// The name of the file, 1 to 1000 characters. Folders and invisible characters are left out.
    #[schema(examples("rex.jpg"))]
    filename: String,
    /// Size of the file in bytes, from 1 to 20971520 (20 MiB).
    #[schema(minimum = 1, maximum = 20_971_520)]
    size_bytes: i64,
    /// `image/png`, `image/jpeg` or `image/webp`. What the file is, its first bytes say.
    #[schema(examples("image/jpeg"))]
    content_type: String,
    /// The SHA-256 of the file, in 64 hexadecimal digits.
    #[schema(examples("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"))]
    sha256: String,
    /// Id or handle of the concept whose photo the file becomes. Without one it becomes an image that samples can start from.
    concept: Option<String>,
    /// The photo's caption, at most 2000 bytes. Photos of a concept only.
    caption: Option<String>,
}

/// How far an upload is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UploadStatus {
    /// The file can be sent and the upload completed.
    Open,
    /// The file has become an image.
    Completed,
    /// It was not completed in time.
    Expired,
}

/// A file that a client sends by a URL of its own.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PresignedUploadBody {
    id: UploadId,
    #[schema(value_type = String, examples("presigned_upload"))]
    object: &'static str,
    status: UploadStatus,
    filename: String,
    /// The announced size in bytes.
    size_bytes: i64,
    /// The announced digest.
    sha256: Digest,
    /// The concept whose photo it becomes. Null for an image that samples can start from.
    concept: Option<ConceptId>,
    /// Where to send the file with `PUT`, as it is and without a form. If it begins with `/`, it is a path of this service. Returned
    /// once, when the upload is announced. Whoever has the URL needs no key.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// What the upload has become. Null until it is completed, and if the image was deleted since.
    image: Option<ImageBody>,
    created_at: Timestamp,
    /// Until when the URL can be used and the upload completed: 15 minutes after it was announced.
    expires_at: Timestamp,
}

impl PresignedUploadBody {
    fn new(upload: Upload, url: Option<String>, image: Option<ImageBody>) -> Self {
        let status = match upload.completed_at {
            Some(_) => UploadStatus::Completed,
            None if upload.is_expired(chrono::Utc::now()) => UploadStatus::Expired,
            None => UploadStatus::Open,
        };
        Self {
            id: upload.upload_id,
            object: "presigned_upload",
            status,
            filename: upload.file_name,
            size_bytes: upload.size_bytes,
            sha256: upload.sha256,
            concept: upload.concept_id,
            url,
            image,
            created_at: upload.created_at.into(),
            expires_at: upload.expires_at.into(),
        }
    }
}

/// Announces a file.
///
/// Send the file with `PUT` to the `url` of the response within 15 minutes, straight to the object store if there is one, then complete
/// the upload with `POST /v1/uploads/{upload_id}/complete`.
#[utoipa::path(post, path = "/v1/uploads", tag = "images", request_body = AnnounceUpload,
    responses(
        (status = 201, body = PresignedUploadBody, headers(("location" = String)), description = "Created"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such concept"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`missing_field`, `unknown_field`, `out_of_range`, `unsupported_image`, `not_applicable`, …"),
    ))]
pub(crate) async fn announce_upload(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<AnnounceUpload>,
) -> Result<impl IntoResponse, ApiError> {
    let AnnounceUpload { filename, size_bytes, content_type, sha256, concept, caption } = body;
    let caption = tidy(caption.as_deref().unwrap_or_default(), MAX_PHOTO_CAPTION);
    let caption = caption
        .map_err(|fault| FieldError::new("/caption", Code::CaptionUnreadable, fault.reason))?;
    let new = NewUpload {
        file_name: filename,
        size_bytes,
        content_type,
        sha256,
        concept,
        caption: Some(caption).filter(|caption| !caption.is_empty()),
    };
    let OpenUpload { upload, url } = app.announce_upload(&caller, new).await?;
    let body = PresignedUploadBody::new(upload, Some(url), None);
    let path = location(&format!("/v1/uploads/{}", body.id));
    let uncached = [(header::CACHE_CONTROL, "no-store")]; // whoever has the URL may write the file
    Ok((StatusCode::CREATED, path, uncached, axum::Json(body)))
}

/// Returns an upload, without its URL.
#[utoipa::path(get, path = "/v1/uploads/{upload_id}", tag = "images",
    params(("upload_id" = UploadId, Path)),
    responses(
        (status = 200, body = PresignedUploadBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_upload(
    State(app): State<App>,
    caller: Caller,
    Path(upload_id): Path<UploadId>,
) -> Result<axum::Json<PresignedUploadBody>, ApiError> {
    let found = app.find_upload(&caller, upload_id).await?;
    Ok(axum::Json(body_of(found)))
}

/// Completes an upload: its file becomes a photo of the concept, or an image that samples can start from.
///
/// The file must be the announced one, by size and digest. It is then treated like a file of a form: rotated, converted to sRGB and
/// stored as PNG under another name, so that what is sent to the URL afterwards has no effect. Completing it again returns the same.
#[utoipa::path(post, path = "/v1/uploads/{upload_id}/complete", tag = "images",
    params(("upload_id" = UploadId, Path)),
    responses(
        (status = 200, body = PresignedUploadBody, description = "OK; `image` is what the file has become"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`upload_incomplete`, `upload_closed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`digest_mismatch`, `image_unreadable`, `unsupported_image`, `image_too_large`, `image_flat`, `duplicate_image`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn complete_upload(
    State(app): State<App>,
    caller: Caller,
    Path(upload_id): Path<UploadId>,
) -> Result<axum::Json<PresignedUploadBody>, ApiError> {
    Ok(axum::Json(body_of(app.complete_upload(&caller, upload_id).await?)))
}

fn body_of(CompletedUpload { upload, image }: CompletedUpload) -> PresignedUploadBody {
    let image = match image {
        UploadedImage::Photo(photo) => Some(ImageBody::from(*photo)),
        UploadedImage::Image(image) => Some(ImageBody::from(*image)),
        UploadedImage::Gone => None,
    };
    PresignedUploadBody::new(upload, None, image)
}

/// Takes the file of an upload, where the service has no object store that does.
///
/// The path is that of the upload's `url`. Sent again before the upload is completed, the file replaces the one before.
#[utoipa::path(put, path = "/uploads/{token}", tag = "images",
    params(("token" = String, Path, description = "From the upload's URL")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 204, description = "The file has arrived"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`upload_closed`"),
        (status = 413, body = Problem, content_type = "application/problem+json",
            description = "`body_too_large`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`digest_mismatch`, `image_unreadable`"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn put_upload(
    State(app): State<App>,
    Path(token): Path<String>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let upload = app.upload_of_token(&token).await?;
    let announced = upload.size_bytes.unsigned_abs() as usize;
    let mut file = app.receive();
    let mut arrived = 0;
    let mut body = request.into_body().into_data_stream();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| ApiError::Malformed(error.to_string()))?;
        arrived += chunk.len();
        if arrived > announced.min(MAX_PHOTO_BYTES) {
            return Err(ApiError::BodyTooLarge { limit_bytes: announced });
        }
        file.push(&chunk).await?;
    }
    app.receive_upload(&upload, file).await?;
    Ok(StatusCode::NO_CONTENT)
}
