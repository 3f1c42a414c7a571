//! Files in forms.

use axum::extract::Request;

use super::error::ApiError;
use super::form::{Form, Part};
use crate::app::App;
use crate::app::image::UploadedFile;
use crate::domain::code::Code;
use crate::domain::image::readable_name;
use crate::domain::invalid::FieldError;

/// Reads the one file of a form.
///
/// - `what`: the file, for errors
pub(super) async fn only_file(
    app: &App,
    request: Request,
    what: &str,
) -> Result<UploadedFile, ApiError> {
    let mut form = Form::open(request, what).await?;
    match read_only_file(app, &mut form, what).await {
        Ok(file) => Ok(file),
        Err(error) => {
            form.drain().await;
            Err(error)
        }
    }
}

async fn read_only_file(app: &App, form: &mut Form, what: &str) -> Result<UploadedFile, ApiError> {
    let instead = format!("send the {what} as a field called `file`");
    let missing = || FieldError::new("/file", Code::MissingField, instead.clone());
    let mut part = form.next_part().await?.ok_or_else(missing)?;
    if part.name() != Some("file") {
        return Err(part.unknown(&instead).into());
    }
    let first = first_bytes(&mut part).await?;
    let file = read_file(app, first, part).await?;
    if form.next_part().await?.is_some() {
        let detail = format!("one {what} is uploaded at a time");
        return Err(FieldError::new("/file", Code::TooManyImages, detail).into());
    }
    Ok(file)
}

/// The first bytes of a part, by which its kind is known.
pub(super) async fn first_bytes(part: &mut Part<'_>) -> Result<Vec<u8>, ApiError> {
    let mut first = Vec::new();
    while first.len() < 64 {
        match part.chunk().await? {
            Some(chunk) => first.extend_from_slice(&chunk),
            None => break,
        }
    }
    Ok(first)
}

/// Reads one file. Of one that cannot be a photo, the rest is skipped.
pub(super) async fn read_file(
    app: &App,
    first: Vec<u8>,
    mut part: Part<'_>,
) -> Result<UploadedFile, ApiError> {
    if part.file_name().is_none() && !is_image(&first) {
        let name = part.name().unwrap_or("files").to_owned();
        let detail = format!(
            "`{name}` came as a text and not as a file: send it as a form part with a file name, with curl `-F {name}=@photo.jpg`"
        );
        return Err(FieldError::new(format!("/{name}"), Code::InvalidValue, detail).into());
    }
    let file_name = part.file_name().map(readable_name);
    let mut content = app.receive();
    content.push(&first).await?;
    while let Some(chunk) = part.chunk().await? {
        content.push(&chunk).await?;
    }
    Ok(UploadedFile { file_name, content })
}

/// Whether the bytes may be an image, also of a format that is not taken.
fn is_image(first: &[u8]) -> bool {
    const BEGINNINGS: [&[u8]; 4] = [b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"GIF8"];
    BEGINNINGS.iter().any(|beginning| first.starts_with(beginning))
        || first.get(4..8) == Some(b"ftyp")
}
