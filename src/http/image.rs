//! Images: photos of concepts, and what all images have in common.

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::{ListBody, ListQuery, Timestamp};
use super::concept::find_one;
use super::content::{Content, is_current, not_modified};
use super::error::{ApiError, Problem};
use super::extract::{Path, Query};
use super::photo::{self, Photo, PhotoError};
use crate::app::App;
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::id::{ConceptId, ImageId, SampleId};
use crate::domain::image::{Image, ImageSource, MAX_PHOTO_BYTES, MAX_PHOTOS};
use crate::domain::invalid::{FieldError, Invalid};
use crate::storage::StorageKey;

/// The largest upload: a few dozen photos of the largest size.
pub(crate) const MAX_UPLOAD_BYTES: usize = 512 * 1024 * 1024;

/// A photo, an upload to start samples from, or a drawn picture.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ImageBody {
    pub(crate) id: ImageId,
    #[schema(value_type = String, examples("image"))]
    object: &'static str,
    /// The concept that a photo belongs to.
    concept: Option<ConceptId>,
    /// Its name when it was uploaded.
    file_name: Option<String>,
    /// The sample that a picture belongs to.
    sample: Option<SampleId>,
    /// Which of the pictures of its seed it is.
    index: Option<i32>,
    width: i32,
    height: i32,
    size_bytes: i64,
    /// SHA-256 of the PNG.
    sha256: String,
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
            created_at: image.created_at.into(),
            url: format!("/v1/images/{}/content", image.image_id),
        }
    }
}

/// Photos to add.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; the parts are read one by one")]
pub(crate) struct UploadForm {
    /// PNG, JPEG or WebP files, at most 20 MiB, 50 million pixels and 8192 pixels a side each.
    #[schema(value_type = Vec<String>, format = Binary)]
    files: Vec<Vec<u8>>,
}

/// What became of each file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UploadBody {
    #[schema(value_type = String, examples("upload"))]
    object: &'static str,
    /// Photos that were added.
    accepted: usize,
    rejected: usize,
    /// One verdict per file, in the order of the files.
    data: Vec<Verdict>,
}

/// What became of one file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Verdict {
    file_name: Option<String>,
    status: VerdictStatus,
    /// The photo, if it was accepted.
    image: Option<ImageBody>,
    /// Why it was not.
    error: Option<VerdictError>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VerdictStatus {
    Accepted,
    Rejected,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerdictError {
    /// `image_unreadable`, `image_too_large`, `image_too_small`, `duplicate_image` or `too_many_images`.
    code: Code,
    detail: String,
}

/// Adds photos to a concept.
///
/// Several files can be sent at once; each gets its own verdict, and a file that is refused does not keep the others
/// out. If all are refused the answer is 422 and nothing has changed. Photos are turned upright as their EXIF data
/// says, then kept as PNG without any metadata.
#[utoipa::path(post, path = "/v1/concepts/{concept}/images", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle")),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, body = UploadBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "No file could be used; `errors` says of each why"),
    ))]
pub(crate) async fn upload_images(
    State(app): State<App>,
    Path(concept): Path<String>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let concept = find_one(&app, &concept).await?;
    let mut form = Multipart::from_request(request, &()).await.map_err(|rejection| {
        ApiError::UnsupportedMediaType(format!(
            "send the photos as multipart/form-data: {}",
            rejection.body_text()
        ))
    })?;

    let mut verdicts = Vec::new();
    while let Some(field) = form.next_field().await.map_err(from_multipart)? {
        let index = verdicts.len();
        if !matches!(field.name(), Some("files" | "files[]" | "file")) {
            let name = field.name().unwrap_or_default().to_owned();
            let detail =
                format!("unknown field `{name}`: send each photo as a field called `files`");
            return Err(FieldError::new(format!("/{name}"), Code::UnknownField, detail).into());
        }
        if index == MAX_PHOTOS {
            let detail = format!("at most {MAX_PHOTOS} photos can be sent at once");
            return Err(FieldError::new("/files", Code::TooManyImages, detail).into());
        }
        let file_name = field.file_name().map(short_file_name);
        let photo = match read_limited(field).await? {
            Some(file) => decode(&app, file).await?,
            None => Err(PhotoError::TooManyBytes),
        };
        let verdict = match photo {
            Ok(photo) => add_photo(&app, &concept, file_name, photo).await?,
            Err(error) => Verdict::rejected(file_name, error.code(), error.to_string()),
        };
        verdicts.push(verdict);
    }
    answer(verdicts)
}

/// 201 if at least one photo was added, else 422 with all the reasons.
fn answer(verdicts: Vec<Verdict>) -> Result<(StatusCode, axum::Json<UploadBody>), ApiError> {
    let rejected: Vec<FieldError> = verdicts
        .iter()
        .enumerate()
        .filter_map(|(index, verdict)| {
            let error = verdict.error.as_ref()?;
            Some(FieldError::new(format!("/files/{index}"), error.code, error.detail.clone()))
        })
        .collect();
    if verdicts.is_empty() {
        let detail = "send at least one photo as a field called `files`";
        return Err(FieldError::new("/files", Code::MissingField, detail).into());
    }
    if rejected.len() == verdicts.len() {
        return Err(Invalid(rejected).into());
    }
    let body = UploadBody {
        object: "upload",
        accepted: verdicts.len() - rejected.len(),
        rejected: rejected.len(),
        data: verdicts,
    };
    Ok((StatusCode::CREATED, axum::Json(body)))
}

impl Verdict {
    fn rejected(file_name: Option<String>, code: Code, detail: String) -> Self {
        let error = Some(VerdictError { code, detail });
        Self { file_name, status: VerdictStatus::Rejected, image: None, error }
    }
}

pub(crate) fn short_file_name(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Reads one file, or `None` if it is too large: the rest of it is then skipped.
pub(crate) async fn read_limited(mut field: Field<'_>) -> Result<Option<Vec<u8>>, ApiError> {
    let mut file = Vec::new();
    let mut fits = true;
    while let Some(chunk) = field.chunk().await.map_err(from_multipart)? {
        fits = fits && file.len() + chunk.len() <= MAX_PHOTO_BYTES;
        if fits {
            file.extend_from_slice(&chunk);
        } else {
            file = Vec::new();
        }
    }
    Ok(fits.then_some(file))
}

pub(crate) fn from_multipart(error: MultipartError) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::BodyTooLarge { limit_bytes: MAX_UPLOAD_BYTES }
    } else {
        ApiError::Malformed(format!("the form cannot be read: {}", error.body_text()))
    }
}

pub(crate) async fn decode(
    app: &App,
    file: Vec<u8>,
) -> Result<Result<Photo, PhotoError>, ApiError> {
    let permit = app.decoders.clone().acquire_owned().await;
    let permit = permit.map_err(|closed| ApiError::Internal(closed.into()))?;
    tokio::task::spawn_blocking(move || {
        let photo = photo::normalize(&file);
        drop(permit);
        photo
    })
    .await
    .map_err(|panicked| ApiError::Internal(panicked.into()))
}

/// Writes an uploaded image's object and returns its row, for the caller to record.
pub(crate) async fn store(
    app: &App,
    image_id: ImageId,
    source: ImageSource,
    key: &StorageKey,
    photo: Photo,
) -> Result<Image, ApiError> {
    let image = Image {
        image_id,
        source,
        width: photo.width as i32,
        height: photo.height as i32,
        size_bytes: photo.png.len() as i64,
        sha256: photo.sha256,
        storage_key: key.as_str().to_owned(),
        created_at: Utc::now(),
    };
    app.storage.write(key, photo.png).await?;
    Ok(image)
}

/// Stores the photo, then records it: an object without a row is litter, a row without an object would be a bug.
async fn add_photo(
    app: &App,
    concept: &Concept,
    file_name: Option<String>,
    photo: Photo,
) -> Result<Verdict, ApiError> {
    let image_id = ImageId::generate();
    let source =
        ImageSource::Photo { concept_id: concept.concept_id, file_name: file_name.clone() };
    let key = StorageKey::photo(concept.concept_id, image_id);
    let image = store(app, image_id, source, &key, photo).await?;
    let mut tx = app.db.begin().await?;
    db::concept::lock(&mut *tx, concept.concept_id).await?;
    let counts = db::image::count_of_concepts(&mut *tx, &[concept.concept_id]).await?;
    if counts.first().is_some_and(|(_, count)| *count >= MAX_PHOTOS as i64) {
        let detail = format!("a concept has at most {MAX_PHOTOS} photos");
        return Ok(Verdict::rejected(file_name, Code::TooManyImages, detail));
    }
    match db::image::record(&mut *tx, &image).await {
        Ok(()) => tx.commit().await?,
        Err(error) if db::broken_constraint(&error) == Some(db::image::PHOTO_IS_UNIQUE) => {
            let detail = "the concept has this photo already".to_owned();
            return Ok(Verdict::rejected(file_name, Code::DuplicateImage, detail));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Verdict {
        file_name,
        status: VerdictStatus::Accepted,
        image: Some(image.into()),
        error: None,
    })
}

/// Lists the photos of a concept, newest first.
#[utoipa::path(get, path = "/v1/concepts/{concept}/images", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle"), ListQuery),
    responses(
        (status = 200, body = ListBody<ImageBody>),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn list_concept_images(
    State(app): State<App>,
    Path(concept): Path<String>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<ListBody<ImageBody>>, ApiError> {
    let concept = find_one(&app, &concept).await?;
    let images = db::image::list_of_concept(&app.db, concept.concept_id, query.page()?).await?;
    Ok(axum::Json(ListBody::new(images, &query, |image| image.image_id.0, ImageBody::from)))
}

/// Returns what is known about an image.
#[utoipa::path(get, path = "/v1/images/{image_id}", tag = "images",
    params(("image_id" = ImageId, Path)),
    responses(
        (status = 200, body = ImageBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get_image(
    State(app): State<App>,
    Path(image_id): Path<ImageId>,
) -> Result<axum::Json<ImageBody>, ApiError> {
    let image = db::image::find(&app.db, image_id).await?;
    let image = image.ok_or_else(|| ApiError::not_found("image", image_id))?;
    Ok(axum::Json(image.into()))
}

/// Returns the image itself, as PNG.
///
/// Images never change: `If-None-Match` with the entity tag is answered by 304. A single `Range` is honoured.
#[utoipa::path(get, path = "/v1/images/{image_id}/content", tag = "images",
    params(("image_id" = ImageId, Path)),
    responses(
        (status = 200, content_type = "image/png", body = Vec<u8>),
        (status = 304),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get_image_content(
    State(app): State<App>,
    Path(image_id): Path<ImageId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let image = db::image::find(&app.db, image_id).await?;
    let image = image.ok_or_else(|| ApiError::not_found("image", image_id))?;
    if is_current(&headers, &image.sha256) {
        return Ok(not_modified(&image.sha256));
    }
    let bytes = app.storage.read(&StorageKey::stored(&image.storage_key)).await?;
    let file_name = format!("{image_id}.png");
    Content { bytes, content_type: "image/png", sha256: &image.sha256, file_name: &file_name }
        .into_response(&headers)
}
