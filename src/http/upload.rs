//! Uploads: photos of concepts, and images to start samples from.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, Problem};
use super::extract::Path;
use super::form::{Form, Part};
use super::image::ImageBody;
use crate::app::image::UploadedFile;
use crate::app::photo::PhotoError;
use crate::app::{App, Caller};
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::image::{Image, MAX_PHOTOS, readable_name};
use crate::domain::invalid::{FieldError, Invalid};

/// Photos to add.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; the parts are read one by one")]
pub(crate) struct UploadForm {
    /// PNG, JPEG or WebP files. Each has at most 20 MiB, 50 million pixels and 8192 pixels a side.
    #[schema(value_type = Vec<String>, format = Binary)]
    files: Vec<Vec<u8>>,
}

/// What became of each file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UploadBody {
    #[schema(value_type = String, examples("upload"))]
    object: &'static str,
    /// The number of photos that were added.
    accepted: usize,
    /// The number of files that were rejected.
    rejected: usize,
    /// One verdict per file, in the order of the files.
    data: Vec<Verdict>,
}

/// What became of one file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Verdict {
    /// The name of the uploaded file.
    file_name: Option<String>,
    status: VerdictStatus,
    /// The photo, if it was accepted.
    image: Option<ImageBody>,
    /// Why the file was rejected.
    error: Option<VerdictError>,
}

/// Whether a file was added.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum VerdictStatus {
    Accepted,
    Rejected,
}

/// Why a file was rejected.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VerdictError {
    code: Code,
    /// What is wrong and what would be right.
    detail: String,
}

impl Verdict {
    fn new(file_name: Option<String>, added: Result<Image, PhotoError>) -> Self {
        let (status, image, error) = match added {
            Ok(image) => (VerdictStatus::Accepted, Some(image.into()), None),
            Err(error) => {
                let error = VerdictError { code: error.code(), detail: error.to_string() };
                (VerdictStatus::Rejected, None, Some(error))
            }
        };
        Self { file_name, status, image, error }
    }
}

/// Adds photos to a concept.
///
/// A request can contain several files. Each gets a verdict of its own, and a rejected file does not affect the others. Photos
/// are added once the whole form has been read: if the response is an error, or all files are rejected, nothing has changed.
/// Photos are rotated as their EXIF orientation says, converted to sRGB, and stored as PNG without any metadata.
#[utoipa::path(post, path = "/v1/concepts/{concept}/images", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle")),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, body = UploadBody, description = "Created"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 413, body = Problem, content_type = "application/problem+json",
            description = "`body_too_large`"),
        (status = 415, body = Problem, content_type = "application/problem+json",
            description = "`unsupported_media_type`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "All files were rejected; `errors` says why, file by file"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn upload_images(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let concept = app.find_concept(&caller, &concept).await?;
    let mut staged = Staged::default();
    if let Err(error) = stage_photos(&app, &caller, &concept, request, &mut staged).await {
        app.discard_photos(&caller, staged.images).await;
        return Err(error);
    }
    let added = app.add_photos(&caller, &concept, staged.images).await?;
    answer(verdicts(staged.files, added))
}

/// The files of a form, and the photos among them whose objects are written.
#[derive(Default)]
struct Staged {
    /// The name of each file, and why it cannot be a photo.
    files: Vec<(Option<String>, Result<(), PhotoError>)>,
    images: Vec<Image>,
}

/// Reads the whole form.
async fn stage_photos(
    app: &App,
    caller: &Caller,
    concept: &Concept,
    request: Request,
    staged: &mut Staged,
) -> Result<(), ApiError> {
    let mut form = Form::open(request, "photos").await?;
    let result = stage_parts(app, caller, concept, &mut form, staged).await;
    if result.is_err() {
        form.drain().await;
    }
    result
}

async fn stage_parts(
    app: &App,
    caller: &Caller,
    concept: &Concept,
    form: &mut Form,
    staged: &mut Staged,
) -> Result<(), ApiError> {
    while let Some(part) = form.next_part().await? {
        check_part(&part, staged.files.len())?;
        let file = read_file(app, part).await?;
        let file_name = file.file_name.clone();
        let verdict = app.stage_photo(caller, concept, file).await?;
        staged.files.push((file_name, verdict.map(|image| staged.images.push(image))));
    }
    Ok(())
}

/// One verdict per file.
///
/// - `added`: what became of the photos, in their order
fn verdicts(
    files: Vec<(Option<String>, Result<(), PhotoError>)>,
    added: Vec<Result<Image, PhotoError>>,
) -> Vec<Verdict> {
    let mut added = added.into_iter();
    let verdict = |(file_name, staged): (Option<String>, Result<(), PhotoError>)| {
        let became = match staged {
            Ok(()) => added.next()?,
            Err(error) => Err(error),
        };
        Some(Verdict::new(file_name, became))
    };
    files.into_iter().filter_map(verdict).collect()
}

/// An image to start samples from.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; its one part is read as it comes")]
pub(crate) struct UploadImageForm {
    /// A PNG, JPEG or WebP file of at most 20 MiB, 50 million pixels and 8192 pixels a side.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Uploads an image that samples can start from, as their `init_image`.
///
/// The image is rotated as its EXIF orientation says, converted to sRGB, and stored as PNG without any metadata. Photos of concepts and
/// generated images need no upload: use their ids.
#[utoipa::path(post, path = "/v1/images", tag = "images",
    request_body(content = UploadImageForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, body = ImageBody, description = "Created"),
        (status = 413, body = Problem, content_type = "application/problem+json",
            description = "`body_too_large`"),
        (status = 415, body = Problem, content_type = "application/problem+json",
            description = "`unsupported_media_type`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`image_unreadable`, `image_too_large`, `image_too_small`, `missing_field`"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn upload_image(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let mut form = Form::open(request, "image").await?;
    let file = match only_file(&app, &mut form).await {
        Ok(file) => file,
        Err(error) => {
            form.drain().await;
            return Err(error);
        }
    };
    let image = app.add_upload(&caller, file).await?;
    Ok((StatusCode::CREATED, axum::Json(ImageBody::from(image))))
}

/// Reads the one file of a form.
async fn only_file(app: &App, form: &mut Form) -> Result<UploadedFile, ApiError> {
    let part = form.next_part().await?.ok_or_else(|| {
        let detail = "send the image as a field called `file`";
        FieldError::new("/file", Code::MissingField, detail)
    })?;
    if part.name() != Some("file") {
        return Err(part.unknown("send the image as a field called `file`").into());
    }
    let file = read_file(app, part).await?;
    if form.next_part().await?.is_some() {
        let detail = "one image is uploaded at a time";
        return Err(FieldError::new("/file", Code::TooManyImages, detail).into());
    }
    Ok(file)
}

/// Refuses a part that is no photo, or one photo too many.
fn check_part(part: &Part<'_>, index: usize) -> Result<(), FieldError> {
    if !matches!(part.name(), Some("files" | "files[]" | "file")) {
        return Err(part.unknown("send each photo as a field called `files`"));
    }
    if index == MAX_PHOTOS {
        let detail = format!("at most {MAX_PHOTOS} photos can be sent at once");
        return Err(FieldError::new("/files", Code::TooManyImages, detail));
    }
    Ok(())
}

/// 201 if at least one photo was added, else 422 with all the reasons.
fn answer(verdicts: Vec<Verdict>) -> Result<(StatusCode, axum::Json<UploadBody>), ApiError> {
    let errors = verdicts.iter().enumerate().filter_map(|(index, verdict)| {
        let error = verdict.error.as_ref()?;
        Some(FieldError::new(format!("/files/{index}"), error.code, error.detail.clone()))
    });
    let errors: Vec<FieldError> = errors.collect();
    if verdicts.is_empty() {
        let detail = "send at least one photo as a field called `files`";
        return Err(FieldError::new("/files", Code::MissingField, detail).into());
    }
    if errors.len() == verdicts.len() {
        return Err(Invalid(errors).into());
    }
    let body = UploadBody {
        object: "upload",
        accepted: verdicts.len() - errors.len(),
        rejected: errors.len(),
        data: verdicts,
    };
    Ok((StatusCode::CREATED, axum::Json(body)))
}

/// Reads one file. Of one that cannot be a photo, the rest is skipped.
pub(super) async fn read_file(app: &App, mut part: Part<'_>) -> Result<UploadedFile, ApiError> {
    let file_name = part.file_name().map(readable_name);
    let mut content = app.receive();
    while let Some(chunk) = part.chunk().await? {
        content.push(&chunk).await?;
    }
    Ok(UploadedFile { file_name, content })
}
