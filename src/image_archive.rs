//! An uploaded zip archive of an imagefolder: its images with their captions, and a verdict on whatever else it has.
//!
//! Archives come from strangers and from every program there is. What is only rubbish, such as the shadow files of a Mac, is left
//! out and listed. What would change a caption unseen refuses the whole archive, with the file and the line.

mod metadata;
mod name;
mod path;
mod photos;
mod side_files;
mod unpack;

use std::collections::HashMap;
use std::fs::File;

use bytes::Bytes;
use rayon::prelude::*;

use crate::class_images::CaptionedFile;
use crate::domain::code::Code;
use crate::domain::digest::Digest;
use crate::domain::image::MIN_PHOTO_SIDE;
use crate::domain::image_set::{FileStatus, FileVerdict, MAX_SET_IMAGES, Verdicts};
use crate::domain::invalid::{FieldError, Invalid};
use crate::photo_file;

pub(crate) use self::photos::PhotoArchive;
use self::unpack::Contents;

/// The form's field that has the archive.
const POINTER: &str = "/file";

/// The most errors that one answer lists.
const MAX_ERRORS: usize = 50;

/// Images that are decoded at once: no more of them, and no further one once these take so many bytes.
const DECODED_AT_ONCE: usize = 32;
const DECODED_BYTES: u64 = 64 << 20;

/// What an archive has.
#[derive(Debug)]
pub(crate) struct ImageArchive {
    /// In the order of their paths. At least one.
    pub(crate) files: Vec<CaptionedFile>,
    pub(crate) verdicts: Verdicts,
}

/// A caption and the file that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Caption {
    text: String,
    from: String,
}

/// What is found while an archive is read.
#[derive(Debug, Default)]
struct Findings {
    verdicts: Verdicts,
    /// Any of them refuses the archive.
    errors: Vec<FieldError>,
}

impl ImageArchive {
    /// Reads an archive and decodes each of its images once.
    ///
    /// # Errors
    /// [`Invalid`], with every file and line that is wrong: not a zip archive, unsafe paths, too much of anything, captions that
    /// cannot be read or matched, no image at all.
    pub(crate) fn read(file: File) -> Result<Self, Invalid> {
        let mut findings = Findings::default();
        let contents = unpack::unpack(file, &mut findings)?;
        let mut captions = metadata::captions(&contents, &mut findings);
        side_files::add_captions(&contents, &mut captions, &mut findings);
        findings.finish_errors()?;

        let images = readable(&contents, &mut findings)?;
        note_missing_captions(&images, &captions, &mut findings);
        note_duplicates(&images, &mut findings);
        let files = images.into_iter().map(|(path, bytes)| {
            let caption = captions.remove(&path).map_or_else(String::new, |caption| caption.text);
            CaptionedFile { path, caption, bytes }
        });
        Ok(Self { files: files.collect(), verdicts: findings.verdicts })
    }
}

impl Findings {
    fn note(&mut self, path: &str, status: FileStatus, detail: impl Into<String>) {
        self.verdicts.add(FileVerdict { path: path.to_owned(), status, detail: detail.into() });
    }

    /// Refuses the archive because of a caption.
    fn refuse_caption(&mut self, detail: String) {
        self.errors.push(FieldError::new(POINTER, Code::CaptionUnreadable, detail));
    }

    fn finish_errors(&mut self) -> Result<(), Invalid> {
        let mut errors = std::mem::take(&mut self.errors);
        let more = errors.len().saturating_sub(MAX_ERRORS);
        errors.truncate(MAX_ERRORS);
        if let Some(last) = errors.last_mut().filter(|_| more > 0) {
            last.detail += &format!("; and {more} more like these");
        }
        if errors.is_empty() { Ok(()) } else { Err(Invalid(errors)) }
    }
}

/// The images that decode, by path. The others get a verdict.
fn readable(contents: &Contents, findings: &mut Findings) -> Result<Vec<(String, Bytes)>, Invalid> {
    let count = contents.images.len();
    if count > MAX_SET_IMAGES {
        let detail = format!(
            "the archive has {count} images, and a set has at most {MAX_SET_IMAGES}: split it"
        );
        return Err(FieldError::new(POINTER, Code::ImageSetTooLarge, detail).into());
    }
    let mut readable = Vec::new();
    let mut images = contents.images.iter().peekable();
    while images.peek().is_some() {
        let mut group: Vec<(String, Bytes)> = Vec::new();
        let mut cost = 0;
        // The thread pool is also that of the engine, which gets its turn between two groups.
        while group.len() < DECODED_AT_ONCE && cost < DECODED_BYTES {
            let Some((path, place)) = images.next() else { break };
            let bytes = contents.image(*place).map_err(|error| unpack::no_disk(&error))?;
            cost += photo_file::header(&bytes).map_or(0, |header| header.decoder_bytes);
            group.push((path.clone(), bytes));
        }
        let faults: Vec<Option<String>> =
            group.par_iter().map(|(_, bytes)| fault_of(bytes)).collect();
        for (image, fault) in group.into_iter().zip(faults) {
            match fault {
                None => readable.push(image),
                Some(fault) => findings.note(&image.0, FileStatus::Broken, fault),
            }
        }
    }
    if readable.is_empty() {
        let broken = findings.verdicts.files.iter();
        let broken = broken.filter(|verdict| verdict.status == FileStatus::Broken);
        let broken: Vec<String> =
            broken.take(5).map(|one| format!("`{}`: {}", one.path, one.detail)).collect();
        let mut detail = "the archive has no PNG, JPEG or WebP image that can be read".to_owned();
        if !broken.is_empty() {
            detail += &format!(" ({})", broken.join("; "));
        }
        return Err(FieldError::new(POINTER, Code::ImageSetUnreadable, detail).into());
    }
    Ok(readable)
}

/// Why an image cannot be used, if it cannot.
fn fault_of(bytes: &[u8]) -> Option<String> {
    match photo_file::decode(bytes) {
        Err(error) => Some(error.to_string()),
        Ok(image) if image.width() < MIN_PHOTO_SIDE || image.height() < MIN_PHOTO_SIDE => {
            Some(format!(
                "the image has {}x{} pixels; each side needs at least {MIN_PHOTO_SIDE}",
                image.width(),
                image.height()
            ))
        }
        Ok(_) => None,
    }
}

fn note_missing_captions(
    images: &[(String, Bytes)],
    captions: &HashMap<String, Caption>,
    findings: &mut Findings,
) {
    let has_caption = |path: &str| captions.get(path).is_some_and(|one| !one.text.is_empty());
    if captions.is_empty() {
        let detail = "no image has a caption: there is neither a metadata.jsonl nor a .txt or .caption file for any of them";
        findings.note(".", FileStatus::Warning, detail);
        return;
    }
    for (path, _) in images.iter().filter(|(path, _)| !has_caption(path)) {
        let detail = match captions.get(path) {
            Some(caption) => format!("its caption in `{}` is empty", caption.from),
            None => "the image has no caption".to_owned(),
        };
        findings.note(path, FileStatus::Warning, detail);
    }
}

fn note_duplicates(images: &[(String, Bytes)], findings: &mut Findings) {
    let mut first_of: HashMap<Digest, &str> = HashMap::new();
    for (path, bytes) in images {
        let first = first_of.entry(Digest::of(bytes)).or_insert(path);
        if first != path {
            let detail = format!("the file has the same bytes as `{first}`; both are in the set");
            findings.note(path, FileStatus::Duplicate, detail);
        }
    }
}

#[cfg(test)]
mod tests;
