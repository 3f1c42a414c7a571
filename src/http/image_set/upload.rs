//! Upload of an image set: a zip archive, written to a temporary file as it comes.

use std::fs::File;
use std::io::{Seek, Write};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use utoipa::ToSchema;

use super::ImageSetBody;
use crate::app::{App, Caller};
use crate::domain::code::Code;
use crate::domain::invalid::FieldError;
use crate::http::body::location;
use crate::http::error::{ApiError, Problem};
use crate::http::form::{Form, Part};

/// Bytes that are written at once.
const BLOCK: usize = 1 << 20;

/// The longest text of a form's field, in bytes.
const MAX_TEXT_BYTES: usize = 4096;

/// An image set to add.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "describes the form; the parts are read one by one")]
pub(crate) struct ImageSetForm {
    /// A zip archive of at most 512 MiB with PNG, JPEG or WebP files and their captions.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// A name for people, of at most 200 characters. Defaults to the archive's file name.
    name: Option<String>,
}

/// Adds an image set from a zip archive.
///
/// Captions come from `metadata.jsonl` (one line per image: `{"file_name": "cat/1.png", "text": "a cat"}`, with names that count
/// from the file's own folder), or from a `.txt` or `.caption` file beside the image; several lines are joined. An image may have
/// none.
///
/// The response lists what was noticed file by file: what was ignored, images with the same bytes, and images that cannot be read
/// and were left out. What would change captions unseen refuses the whole archive, with the file and line: a caption that is not
/// UTF-8 text, a line that names no image of the archive, an image with two captions. Then nothing is kept.
#[utoipa::path(post, path = "/v1/image-sets", tag = "image sets",
    request_body(content = ImageSetForm, content_type = "multipart/form-data"),
    responses(
        (status = 201, body = ImageSetBody, headers(("location" = String)), description = "Created"),
        (status = 413, body = Problem, content_type = "application/problem+json",
            description = "`body_too_large`"),
        (status = 415, body = Problem, content_type = "application/problem+json",
            description = "`unsupported_media_type`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`image_set_unreadable`, `image_set_too_large`, `caption_unreadable`, `missing_field`, …"),
    ))]
pub(crate) async fn upload_image_set(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<impl IntoResponse, ApiError> {
    let mut form = Form::open(request, "archive").await?;
    let (mut name, mut file_name, mut archive) = (None, None, None);
    while let Some(part) = form.next_part().await? {
        match part.name() {
            Some("file") if archive.is_none() => {
                file_name = part.file_name().map(set_name);
                archive = Some(write(part).await?);
            }
            Some("file") => {
                let detail = "one archive is uploaded at a time";
                return Err(FieldError::new("/file", Code::InvalidValue, detail).into());
            }
            Some("name") => name = Some(read_text(part).await?),
            Some(_) | None => {
                let instead = "send the archive as a field called `file`, and its name as `name`";
                return Err(part.unknown(instead).into());
            }
        }
    }
    let archive = archive.ok_or_else(|| {
        let detail = "send the archive as a field called `file`";
        FieldError::new("/file", Code::MissingField, detail)
    })?;
    let set = app.add_image_set(&caller, name.or(file_name), archive).await?;
    let body = ImageSetBody::from(set);
    Ok((StatusCode::CREATED, location(&format!("/v1/image-sets/{}", body.id)), axum::Json(body)))
}

/// A name for a set from that of its archive.
fn set_name(file_name: &str) -> String {
    let name = file_name.rsplit(['/', '\\']).next().unwrap_or(file_name);
    let name = name.strip_suffix(".zip").unwrap_or(name);
    name.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Writes a field to a file that has no name and vanishes with its handle.
async fn write(mut part: Part<'_>) -> Result<File, ApiError> {
    let mut file = tempfile::tempfile().map_err(no_room)?;
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        let chunk = part.chunk().await?;
        let is_last = chunk.is_none();
        block.extend_from_slice(&chunk.unwrap_or_default());
        if block.len() >= BLOCK || is_last {
            let written = tokio::task::spawn_blocking(move || {
                file.write_all(&block)?;
                block.clear();
                if is_last {
                    file.rewind()?;
                }
                Ok((file, block))
            });
            (file, block) =
                written.await.map_err(std::io::Error::other).flatten().map_err(no_room)?;
        }
        if is_last {
            return Ok(file);
        }
    }
}

fn no_room(error: std::io::Error) -> ApiError {
    ApiError::Internal(error.into())
}

async fn read_text(mut part: Part<'_>) -> Result<String, ApiError> {
    let mut content = Vec::new();
    while let Some(chunk) = part.chunk().await? {
        content.extend_from_slice(&chunk);
        if content.len() > MAX_TEXT_BYTES {
            let detail = format!("`name` has more than {MAX_TEXT_BYTES} bytes");
            return Err(FieldError::new("/name", Code::InvalidValue, detail).into());
        }
    }
    String::from_utf8(content)
        .map_err(|_| FieldError::new("/name", Code::InvalidValue, "`name` is not UTF-8").into())
}
