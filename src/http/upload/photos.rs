//! The form of an upload of photos: files, captions and masks in any order, brought together by their names at the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};

use axum::extract::Request;
use bytes::Bytes;

use crate::app::concept_photo::{StagedMask, StagedPhoto};
use crate::app::photo::PhotoError;
use crate::app::{App, Caller};
use crate::domain::caption::{text_of, tidy};
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::image::{MAX_PHOTOS, readable_name};
use crate::domain::image_set::FileVerdict;
use crate::domain::invalid::{FieldError, Invalid};
use crate::domain::photo::MAX_PHOTO_CAPTION;
use crate::http::error::ApiError;
use crate::http::file::{first_bytes, read_file};
use crate::http::form::{Form, Part};

/// The longest part with captions: one for each of the most photos.
const MAX_CAPTIONS_BYTES: usize = 1 << 20;

const PARTS: &str = "send each photo, or a zip archive of them, as a field called `files`, and what belongs to it as `captions` or `masks`";

/// The photos of a form whose objects are written, and why the other files are not among them.
#[derive(Default)]
pub(super) struct Staged {
    /// The name of each file, and why it cannot be a photo.
    pub(super) files: Vec<(Option<String>, Result<(), PhotoError>)>,
    /// Those that can, in the same order.
    pub(super) photos: Vec<StagedPhoto>,
    /// Files of archives that are no photos.
    pub(super) left_out: Vec<FileVerdict>,
    masks: Vec<(String, StagedMask)>,
    /// In the order of the photos.
    ordered: Vec<String>,
    /// By the name of a photo or of the file beside it.
    named: BTreeMap<String, String>,
}

impl Staged {
    /// Reads the whole form. What it has staged until an error is still there, to be discarded.
    pub(super) async fn read(
        &mut self,
        app: &App,
        caller: &Caller,
        concept: &Concept,
        request: Request,
    ) -> Result<(), ApiError> {
        let mut form = Form::open(request, "photos").await?;
        let mut result = self.read_parts(app, caller, concept, &mut form).await;
        if result.is_ok() {
            result = self.bring_together(app, concept).map_err(ApiError::from);
        }
        if result.is_err() {
            form.drain().await;
        }
        result
    }

    /// Deletes what was written.
    pub(super) async fn discard(self, app: &App, caller: &Caller, concept: &Concept) {
        app.discard_photos(caller, concept, self.photos).await;
        app.discard_masks(caller, concept, self.masks.into_iter().map(|(_, mask)| mask)).await;
    }

    async fn read_parts(
        &mut self,
        app: &App,
        caller: &Caller,
        concept: &Concept,
        form: &mut Form,
    ) -> Result<(), ApiError> {
        while let Some(mut part) = form.next_part().await? {
            let name = part.file_name().map(readable_name);
            match part.name() {
                Some("files" | "files[]" | "file") => {
                    let first = first_bytes(&mut part).await?;
                    if name.as_deref().is_some_and(is_side_file) {
                        let text = read_caption(first, part).await?;
                        self.add_named(name.unwrap_or_default(), &text)?;
                    } else if first.starts_with(b"PK\x03\x04") || first.starts_with(b"PK\x05\x06") {
                        let archive = write_archive(first, part).await?;
                        let (verdicts, left_out) =
                            app.stage_archive(caller, concept, archive).await?;
                        self.left_out.extend(left_out);
                        for (path, staged) in verdicts {
                            let became = staged.map(|photo| self.photos.push(photo));
                            self.files.push((Some(path), became));
                        }
                    } else {
                        let photo = read_file(app, first, part).await?;
                        let staged = app.stage_photo(caller, concept, photo).await?;
                        let became = staged.map(|photo| self.photos.push(photo));
                        self.files.push((name, became));
                    }
                    check_count(self.files.len())?;
                }
                Some("captions" | "captions[]" | "caption") => {
                    let first = first_bytes(&mut part).await?;
                    let text = read_caption(first, part).await?;
                    self.add_captions(name, &text)?;
                }
                Some("masks" | "masks[]" | "mask") => {
                    let first = first_bytes(&mut part).await?;
                    let mask = read_file(app, first, part).await?;
                    let pointer = format!("/masks/{}", self.masks.len());
                    let name = name.ok_or_else(|| {
                        let detail = "a mask needs the file name of its photo: send it as a file";
                        FieldError::new(pointer.clone(), Code::UnmatchedFile, detail)
                    })?;
                    let staged = app.stage_mask(caller, concept, mask).await?;
                    let staged = staged.map_err(|error| {
                        FieldError::new(pointer, error.code(), format!("`{name}`: {error}"))
                    })?;
                    self.masks.push((name, staged));
                    if self.masks.len() > MAX_PHOTOS {
                        let detail = format!("at most {MAX_PHOTOS} masks can be sent at once");
                        return Err(FieldError::new("/masks", Code::TooManyImages, detail).into());
                    }
                }
                _ => return Err(part.unknown(PARTS).into()),
            }
        }
        Ok(())
    }

    /// - `name`: of a file; a field that is none has the caption of the next photo, or a JSON object with those of all
    fn add_captions(&mut self, name: Option<String>, text: &[u8]) -> Result<(), FieldError> {
        if let Some(name) = name {
            return self.add_named(name, text);
        }
        let pointer = format!("/captions/{}", self.ordered.len());
        if text.trim_ascii_start().starts_with(b"{") {
            let captions: Result<BTreeMap<String, String>, _> = serde_json::from_slice(text);
            let captions = captions.map_err(|_| {
                let detail = "a caption that begins with { is a JSON object of captions by file name: {\"1.jpg\": \"a red ball\"}";
                FieldError::new(pointer, Code::CaptionUnreadable, detail)
            })?;
            for (name, text) in captions {
                self.add_named(readable_name(&name), text.as_bytes())?;
            }
            return Ok(());
        }
        self.ordered.push(caption(text, &format!("caption {}", self.ordered.len() + 1), &pointer)?);
        check_count(self.ordered.len())
    }

    fn add_named(&mut self, name: String, text: &[u8]) -> Result<(), FieldError> {
        let caption = caption(text, &format!("`{name}`"), "/captions")?;
        self.named.insert(name, caption);
        check_count(self.named.len())
    }

    /// Gives each photo its caption and its mask.
    fn bring_together(&mut self, app: &App, concept: &Concept) -> Result<(), Invalid> {
        let is_of = |(name, became): &(Option<String>, Result<(), PhotoError>), wanted: &str| {
            let name = name.as_deref().unwrap_or_default();
            let is_same = name == wanted || stem(name) == stem(wanted);
            is_same.then_some(became.is_ok())
        };
        // The places of the photos among the files.
        let mut place = 0;
        let photo_of_file: Vec<Option<usize>> = self
            .files
            .iter()
            .map(|(_, became)| {
                place += usize::from(became.is_ok());
                became.is_ok().then(|| place - 1)
            })
            .collect();
        let mut errors = Vec::new();
        let find = |wanted: &str| {
            let exact = self.files.iter().position(|(name, _)| name.as_deref() == Some(wanted));
            exact.or_else(|| self.files.iter().position(|file| is_of(file, wanted).is_some()))
        };

        if !self.ordered.is_empty() && self.ordered.len() != self.files.len() {
            let detail = format!(
                "{} captions came with {} photos: send one for each in the same order (an empty one for none), or name them by file",
                self.ordered.len(),
                self.files.len()
            );
            return Err(FieldError::new("/captions", Code::UnmatchedFile, detail).into());
        }
        let mut captions: Vec<(usize, String, String)> = Vec::new();
        for (index, text) in self.ordered.drain(..).enumerate() {
            captions.push((index, text, format!("/captions/{index}")));
        }
        let mut unmatched = |pointer: &str, name: &str| {
            let detail = format!(
                "`{name}` belongs to no photo of the upload: name it as the photo is named"
            );
            errors.push(FieldError::new(pointer, Code::UnmatchedFile, detail));
        };
        for (name, text) in std::mem::take(&mut self.named) {
            match find(&name) {
                Some(file) => captions.push((file, text, "/captions".to_owned())),
                None => unmatched("/captions", &name),
            }
        }
        let mut masks = Vec::new();
        for (index, (name, mask)) in self.masks.iter().enumerate() {
            match find(name) {
                Some(file) => masks.push((file, mask.clone(), index)),
                None => unmatched(&format!("/masks/{index}"), name),
            }
        }
        for (file, text, pointer) in captions {
            let Some(photo) = photo_of_file[file] else { continue };
            if text.is_empty() {
                continue;
            }
            if let Err(error) = app.check_caption(concept, &text, &pointer) {
                let name = self.files[file].0.as_deref().unwrap_or("a photo");
                let detail = format!("the caption of `{name}`: {}", error.detail);
                errors.push(FieldError { detail, ..error });
            }
            self.photos[photo].notes.caption = Some(text);
        }
        for (file, mask, index) in masks {
            let Some(photo) = photo_of_file[file] else { continue };
            let photo = &mut self.photos[photo];
            match mask.check_fits(&photo.image) {
                Ok(()) => photo.notes.mask = Some(mask.mask),
                Err(detail) => {
                    let pointer = format!("/masks/{index}");
                    errors.push(FieldError::new(pointer, Code::MaskUnusable, detail));
                }
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(Invalid(errors)) }
    }
}

/// Refuses one photo too many.
fn check_count(count: usize) -> Result<(), FieldError> {
    if count > MAX_PHOTOS {
        let detail = format!("at most {MAX_PHOTOS} photos can be sent at once");
        return Err(FieldError::new("/files", Code::TooManyImages, detail));
    }
    Ok(())
}

/// Whether a file beside a photo has its caption.
fn is_side_file(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with(".txt") || name.ends_with(".caption")
}

/// A name without its last extension.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

/// - `what`: the caption, for the error
fn caption(text: &[u8], what: &str, pointer: &str) -> Result<String, FieldError> {
    let caption = text_of(text).and_then(|text| tidy(&text, MAX_PHOTO_CAPTION));
    caption.map_err(|fault| {
        let detail = format!("{what}, line {}: {}", fault.line, fault.reason);
        FieldError::new(pointer, Code::CaptionUnreadable, detail)
    })
}

async fn read_caption(first: Vec<u8>, mut part: Part<'_>) -> Result<Vec<u8>, ApiError> {
    let mut text = first;
    while let Some(chunk) = part.chunk().await? {
        if text.len() <= MAX_CAPTIONS_BYTES {
            text.extend_from_slice(&chunk);
        }
    }
    if text.len() > MAX_CAPTIONS_BYTES {
        let name = part.file_name().map_or_else(|| "the captions".to_owned(), readable_name);
        let detail = format!("{name}: a caption has at most {MAX_PHOTO_CAPTION} bytes, shorten it");
        return Err(FieldError::new("/captions", Code::CaptionUnreadable, detail).into());
    }
    Ok(text)
}

/// Writes an archive to a file that has no name and vanishes with its handle.
async fn write_archive(first: Vec<u8>, mut part: Part<'_>) -> Result<File, ApiError> {
    const BLOCK: usize = 1 << 20;
    let mut file = tempfile::tempfile().map_err(no_room)?;
    let mut block = first;
    loop {
        let chunk: Option<Bytes> = part.chunk().await?;
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
