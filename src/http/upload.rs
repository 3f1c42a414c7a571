//! Uploads: photos of concepts, and images to start samples from.

mod photos;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, Problem};
use super::extract::Path;
use super::file::only_file;
use super::image::ImageBody;
use super::photo::body::FindingBody;
use crate::app::concept_photo::DescribedPhoto;
use crate::app::photo::PhotoError;
use crate::app::{App, Caller};
use crate::domain::code::Code;
use crate::domain::id::ImageId;
use crate::domain::image::{ImageSource, readable_path};
use crate::domain::image_set::FileVerdict;
use crate::domain::invalid::{FieldError, Invalid};
use crate::domain::photo::PhotoVerdict;

use self::photos::Staged;

/// Photos to add.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; the parts are read one by one")]
pub(crate) struct UploadForm {
    /// PNG, JPEG or WebP files. Each has at most 20 MiB, 50 million pixels and 8192 pixels a side, and takes at most 192 MiB to decode.
    /// Or zip archives of such files, with captions beside them as `.txt` or `.caption` files or in a `metadata.jsonl`; or those
    /// caption files themselves. What a file is, its first bytes say.
    #[schema(value_type = Vec<String>, format = Binary)]
    files: Vec<Vec<u8>>,
    /// Captions, at most 2000 bytes each and no longer than the text encoder takes. Either one text for each photo in the order of the
    /// photos, empty for none; or one text with a JSON object of captions by file name; or text files that are called like their
    /// photos. A photo without a caption is trained with the recipe's templates.
    captions: Option<Vec<String>>,
    /// Subject masks: images called like their photos but for the extension and of the same shape, white where the subject is. A
    /// training learns from the white part of the photo.
    #[schema(value_type = Option<Vec<String>>, format = Binary)]
    masks: Option<Vec<Vec<u8>>>,
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
    /// The worst verdict of all files: `fail` if one was rejected.
    verdict: PhotoVerdict,
    /// One verdict per photo, in the order of the files; photos of an archive in the order of their paths.
    data: Vec<Verdict>,
    /// Files of archives that are neither photos nor captions, and were left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ignored: Vec<IgnoredFile>,
}

/// A file of an archive that was left out.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IgnoredFile {
    /// The path of the file in the archive.
    path: String,
    /// Why it was left out.
    detail: String,
}

/// What became of one file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UploadVerdict)]
pub(crate) struct Verdict {
    /// The name of the uploaded file, without folders and invisible characters; of a file in an archive, its path.
    file_name: Option<String>,
    status: VerdictStatus,
    /// How good the photo is to learn from; `fail` if it was rejected.
    verdict: PhotoVerdict,
    /// What was noticed about the photo.
    findings: Vec<FindingBody>,
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
    fn new(file_name: Option<String>, added: Result<DescribedPhoto, PhotoError>) -> Self {
        match added {
            Ok(photo) => Self {
                file_name,
                status: VerdictStatus::Accepted,
                verdict: photo.verdict().unwrap_or(PhotoVerdict::Ok),
                findings: photo.findings.iter().map(FindingBody::from).collect(),
                image: Some(photo.into()),
                error: None,
            },
            Err(error) => {
                let (code, detail) = (error.code(), error.to_string());
                let finding =
                    FindingBody { code, verdict: PhotoVerdict::Fail, detail: detail.clone() };
                Self {
                    file_name,
                    status: VerdictStatus::Rejected,
                    verdict: PhotoVerdict::Fail,
                    findings: vec![finding],
                    image: None,
                    error: Some(VerdictError { code, detail }),
                }
            }
        }
    }
}

/// Adds photos to a concept.
///
/// A request can contain several files. Each gets a verdict of its own, and a rejected file does not affect the others. Photos
/// are added once the whole form has been read: if the response is an error, or all files are rejected, nothing has changed.
/// Photos are rotated as their EXIF orientation says, converted to sRGB, and stored as PNG without any metadata.
///
/// What teaches nothing is rejected: an image of a single colour, a narrow strip. What is doubtful is added with a warning: small,
/// blurred or faint photos, noise, photos that are nearly the same as another one. `POST /v1/concepts/{concept}/check` looks at all
/// of them together.
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
            description = "All files were rejected, and `errors` says why, file by file; or a caption or mask cannot be used: `caption_unreadable`, `unmatched_file`, `mask_unusable`"),
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
    if let Err(error) = staged.read(&app, &caller, &concept, request).await {
        staged.discard(&app, &caller, &concept).await;
        return Err(error);
    }
    let added = app.add_photos(&caller, &concept, staged.photos).await?;
    answer(verdicts(staged.files, added), staged.left_out)
}

/// One verdict per file.
///
/// - `added`: what became of the photos, in their order
fn verdicts(
    files: Vec<(Option<String>, Result<(), PhotoError>)>,
    added: Vec<Result<DescribedPhoto, PhotoError>>,
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

/// Answers as when these photos were added, without the files that were rejected then.
pub(super) async fn show_added(
    app: &App,
    caller: &Caller,
    photos: &[ImageId],
) -> Result<(StatusCode, axum::Json<UploadBody>), ApiError> {
    let mut verdicts = Vec::new();
    for photo in photos {
        let image = app.image(caller, *photo).await?;
        if let ImageSource::Photo { concept_id, file_name } = image.source {
            let concept = app.find_concept(caller, &concept_id.to_string()).await?;
            let photo = app.photo_of_concept(caller, &concept, *photo).await?;
            verdicts.push(Verdict::new(file_name, Ok(photo)));
        }
    }
    answer(verdicts, Vec::new())
}

/// 201 if at least one photo was added, else 422 with all the reasons.
fn answer(
    verdicts: Vec<Verdict>,
    left_out: Vec<FileVerdict>,
) -> Result<(StatusCode, axum::Json<UploadBody>), ApiError> {
    let errors = verdicts.iter().enumerate().filter_map(|(index, verdict)| {
        let error = verdict.error.as_ref()?;
        Some(FieldError::new(format!("/files/{index}"), error.code, error.detail.clone()))
    });
    let errors: Vec<FieldError> = errors.collect();
    if verdicts.is_empty() {
        let detail = match left_out.is_empty() {
            true => "send at least one photo as a field called `files`",
            false => "the archive has no PNG, JPEG or WebP image",
        };
        return Err(FieldError::new("/files", Code::MissingField, detail).into());
    }
    if errors.len() == verdicts.len() {
        return Err(Invalid(errors).into());
    }
    let ignored = left_out
        .into_iter()
        .map(|file| IgnoredFile { path: readable_path(&file.path), detail: file.detail });
    let body = UploadBody {
        object: "upload",
        accepted: verdicts.len() - errors.len(),
        rejected: errors.len(),
        verdict: verdicts.iter().map(|one| one.verdict).max().unwrap_or(PhotoVerdict::Ok),
        data: verdicts,
        ignored: ignored.collect(),
    };
    Ok((StatusCode::CREATED, axum::Json(body)))
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
            description = "`image_unreadable`, `unsupported_image`, `image_too_large`, `image_too_small`, `missing_field`"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn upload_image(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let file = only_file(&app, request, "image").await?;
    let image = app.add_upload(&caller, file).await?;
    Ok((StatusCode::CREATED, axum::Json(ImageBody::from(image))))
}
