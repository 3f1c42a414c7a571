//! A zip archive's files in memory, within limits that hold whatever its headers promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use zip::ZipArchive;
use zip::result::ZipError;

use super::path::{self, FileKind};
use super::{Findings, POINTER, name};
use crate::domain::code::Code;
use crate::domain::image::MAX_PHOTO_BYTES;
use crate::domain::image_set::{
    FileStatus, MAX_ARCHIVE_ENTRIES, MAX_CAPTION_BYTES, MAX_METADATA_BYTES, MAX_SET_BYTES,
};
use crate::domain::invalid::FieldError;
use crate::photo_file;

/// The files of an archive by their clean paths.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) images: BTreeMap<String, Place>,
    /// The images one after another, in a file that vanishes with its handle: together they may be far larger than the memory.
    pub(super) spool: File,
    /// Images that were not kept, each with a verdict already.
    pub(super) left_out: BTreeSet<String>,
    pub(super) side_files: BTreeMap<String, Bytes>,
    pub(super) metadata: BTreeMap<String, Bytes>,
}

/// Where an image lies in the spool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    at: u64,
    size: usize,
}

impl Contents {
    /// An image's file.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn image(&self, place: Place) -> std::io::Result<Bytes> {
        let mut bytes = vec![0; place.size];
        self.spool.read_exact_at(&mut bytes, place.at)?;
        Ok(bytes.into())
    }
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
    let mut contents = Contents {
        images: BTreeMap::new(),
        spool: tempfile::tempfile().map_err(|error| no_disk(&error))?,
        left_out: BTreeSet::new(),
        side_files: BTreeMap::new(),
        metadata: BTreeMap::new(),
    };
    let mut written = 0;
    let mut taken = BTreeSet::new();
    let mut left = MAX_SET_BYTES;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| entry_error(&error, index))?;
        let name = match name::east_asian(entry.name_raw()) {
            Some(name) => name,
            None => entry.name().map_err(|error| entry_error(&error, index))?.into_owned(),
        };
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
        let mut kind = path::kind(&path);
        // The bytes say what a file is, where its name says nothing.
        let mut beginning = Vec::new();
        if kind == FileKind::Other {
            let read = (&mut entry).take(photo_file::BEGINNING as u64).read_to_end(&mut beginning);
            read.map_err(|error| unreadable(format!("`{path}` cannot be unpacked: {error}")))?;
            if photo_file::check_beginning(&beginning).is_ok() {
                kind = FileKind::Image;
            }
        }
        let mut entry = beginning.as_slice().chain(entry);
        if kind != FileKind::Rubbish && !taken.insert(path.clone()) {
            return Err(unreadable(format!("two files of the archive have the path `{path}`")));
        }
        let mut read = |limit: u64| read_up_to(&mut entry, limit, &path, &mut left);
        match kind {
            FileKind::Image => match read(MAX_PHOTO_BYTES as u64)? {
                Some(bytes) => {
                    contents.spool.write_all(&bytes).map_err(|error| no_disk(&error))?;
                    contents.images.insert(path, Place { at: written, size: bytes.len() });
                    written += bytes.len() as u64;
                }
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

/// The machine failed, not the archive; there is no better code for a check that has no other way to fail.
pub(super) fn no_disk(error: &std::io::Error) -> FieldError {
    tracing::error!(%error, "an archive cannot be unpacked to a temporary file");
    FieldError::new(
        POINTER,
        Code::StorageFull,
        "there is no room to unpack the archive: send it again later",
    )
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
