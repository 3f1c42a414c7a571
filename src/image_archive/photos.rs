//! A zip archive of photos: each with the caption that lies beside it, and read one at a time.

use std::fs::File;

use bytes::Bytes;

use super::unpack::{self, Contents, Place};
use super::{Findings, metadata, side_files};
use crate::domain::image_set::FileVerdict;
use crate::domain::invalid::Invalid;

/// The photos of an archive.
#[derive(Debug)]
pub(crate) struct PhotoArchive {
    contents: Contents,
    /// In the order of their paths.
    photos: Vec<ArchivedPhoto>,
    /// What is no photo and no caption, and photos of other formats.
    pub(crate) left_out: Vec<FileVerdict>,
}

/// A photo of an archive that has not been read.
#[derive(Debug)]
pub(crate) struct ArchivedPhoto {
    pub(crate) path: String,
    pub(crate) caption: Option<String>,
    place: Place,
}

impl PhotoArchive {
    /// Reads an archive; what is in its files is not looked at.
    ///
    /// # Errors
    /// [`Invalid`]: not a zip archive, unsafe paths, too much of anything, captions that cannot be read or matched.
    pub(crate) fn open(file: File) -> Result<Self, Invalid> {
        let mut findings = Findings::default();
        let contents = unpack::unpack(file, &mut findings)?;
        let mut captions = metadata::captions(&contents, &mut findings);
        side_files::add_captions(&contents, &mut captions, &mut findings);
        findings.finish_errors()?;
        let photo = |(path, place): (&String, &Place)| ArchivedPhoto {
            caption: captions.remove(path).map(|one| one.text).filter(|text| !text.is_empty()),
            path: path.clone(),
            place: *place,
        };
        let photos = contents.images.iter().map(photo).collect();
        Ok(Self { photos, contents, left_out: findings.verdicts.files })
    }

    pub(crate) fn photos(&self) -> &[ArchivedPhoto] {
        &self.photos
    }

    /// A photo's file.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn read(&self, photo: &ArchivedPhoto) -> std::io::Result<Bytes> {
        self.contents.image(photo.place)
    }
}
