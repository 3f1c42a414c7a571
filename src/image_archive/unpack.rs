//! A zip archive's files in memory, within limits that hold whatever its headers promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};

use bytes::Bytes;
use zip::ZipArchive;
use zip::result::ZipError;

use super::path::{self, FileKind};
use super::{Findings, POINTER};
use crate::domain::code::Code;
use crate::domain::image::MAX_PHOTO_BYTES;
use crate::domain::image_set::{
    FileStatus, MAX_ARCHIVE_ENTRIES, MAX_CAPTION_BYTES, MAX_METADATA_BYTES, MAX_SET_BYTES,
};
use crate::domain::invalid::FieldError;

/// The files of an archive by their clean paths.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) images: BTreeMap<String, Bytes>,
    /// Images that were not kept, each with a verdict already.
    pub(super) left_out: BTreeSet<String>,
    pub(super) side_files: BTreeMap<String, Bytes>,
    pub(super) metadata: BTreeMap<String, Bytes>,
}

/// Reads what an image set is made of; the rest is listed and never decompressed.
pub(super) fn unpack(file: File, findings: &mut Findings) -> Result<Contents, FieldError> {
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| not_a_zip(&error))?;
    if archive.len() > MAX_ARCHIVE_ENTRIES {
        let entries = archive.len();
        return Err(too_large(format!(
            "it has {entries} files, at most {MAX_ARCHIVE_ENTRIES} fit"
        )));
    }
    let mut contents = Contents::default();
    let mut taken = BTreeSet::new();
    let mut left = MAX_SET_BYTES;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| entry_error(&error, index))?;
        let name = entry.name().map_err(|error| entry_error(&error, index))?.into_owned();
        let path = match path::clean(&name) {
            Ok(path) => path,
            Err(path::UnsafePath::Empty) if entry.is_dir() => continue, // `./`
            Err(reason) => {
                return Err(unreadable(format!("the path `{name}` is not taken: {reason}")));
            }
        };
        if entry.is_symlink() {
            return Err(unreadable(format!("`{name}` is a link: pack the file itself")));
        }
        if entry.is_dir() {
            continue;
        }
        let kind = path::kind(&path);
        if kind != FileKind::Rubbish && !taken.insert(path.clone()) {
            return Err(unreadable(format!("two files of the archive have the path `{path}`")));
        }
        let mut read = |limit: u64| read_up_to(&mut entry, limit, &path, &mut left);
        match kind {
            FileKind::Image => match read(MAX_PHOTO_BYTES as u64)? {
                Some(bytes) => drop(contents.images.insert(path, bytes)),
                None => {
                    let detail = format!("the file has more than {MAX_PHOTO_BYTES} bytes");
                    findings.note(&path, FileStatus::Broken, detail);
                    contents.left_out.insert(path);
                }
            },
            FileKind::OtherImage => {
                let detail = "the format is not taken: convert the image to PNG, JPEG or WebP";
                findings.note(&path, FileStatus::Broken, detail);
                contents.left_out.insert(path);
            }
            FileKind::SideFile => match read(MAX_CAPTION_BYTES as u64)? {
                Some(bytes) => drop(contents.side_files.insert(path, bytes)),
                None => findings.refuse_caption(format!(
                    "`{path}` has more than {MAX_CAPTION_BYTES} bytes: it is no caption of one image"
                )),
            },
            FileKind::Metadata => match read(MAX_METADATA_BYTES)? {
                Some(bytes) => drop(contents.metadata.insert(path, bytes)),
                None => return Err(too_large(format!("`{path}` has more than {MAX_METADATA_BYTES} bytes"))),
            },
            FileKind::Rubbish => {
                findings.note(&path, FileStatus::Ignored, "hidden, or made by the system");
            }
            FileKind::Other => {
                findings.note(&path, FileStatus::Ignored, "neither an image nor a caption");
            }
        }
    }
    Ok(contents)
}

/// Reads a file; `None` if it is larger than `limit`.
///
/// - `left`: what all files together may still have
fn read_up_to(
    entry: &mut impl Read,
    limit: u64,
    path: &str,
    left: &mut u64,
) -> Result<Option<Bytes>, FieldError> {
    let mut content = Vec::new();
    // The size in the header is a promise; what counts is what comes out.
    let allowed = limit.min(*left);
    let read = entry.take(allowed + 1).read_to_end(&mut content);
    read.map_err(|error| unreadable(format!("`{path}` cannot be unpacked: {error}")))?;
    let size = content.len() as u64;
    if size > *left {
        return Err(too_large(format!("its files have more than {MAX_SET_BYTES} bytes")));
    }
    if size > limit {
        return Ok(None);
    }
    *left -= size;
    Ok(Some(content.into()))
}

fn not_a_zip(error: &ZipError) -> FieldError {
    unreadable(format!(
        "the file is not a zip archive, or is damaged ({error}): send the folder as a .zip"
    ))
}

fn entry_error(error: &ZipError, index: usize) -> FieldError {
    unreadable(match error {
        ZipError::UnsupportedArchive(ZipError::PASSWORD_REQUIRED) => {
            "the archive is encrypted: pack it without a password".to_owned()
        }
        ZipError::CompressionMethodNotSupported(method) => {
            format!(
                "file {index} is compressed by method {method}: use the ordinary one, deflate, or none"
            )
        }
        error => format!("file {index} of the archive cannot be read: {error}"),
    })
}

fn unreadable(detail: String) -> FieldError {
    FieldError::new(POINTER, Code::ImageSetUnreadable, detail)
}

fn too_large(what: String) -> FieldError {
    FieldError::new(
        POINTER,
        Code::ImageSetTooLarge,
        format!("the archive is too large: {what}; split it"),
    )
}
