//! A set as one object, and where each of its images is in it.

use std::io::{self, Cursor};

use bytes::Bytes;
use chrono::Utc;
use zip::ZipArchive;

use super::{ClassImageSet, Entry};
use crate::domain::digest::Digest;
use crate::domain::id::ImageSetId;
use crate::domain::image_set::{ImageSet, ImageSetSource, SetImage, Verdicts};
use crate::domain::record::{Labels, Record};
use crate::domain::training::ImageSetRef;

/// A set as it is stored.
#[derive(Clone, Debug)]
pub struct PackedSet {
    pub bytes: Bytes,
    pub reference: ImageSetRef,
    pub images: Vec<SetImage>,
}

impl PackedSet {
    /// The set's row in the catalog.
    pub fn row(&self, name: String, source: ImageSetSource, verdicts: Verdicts) -> ImageSet {
        let captions = self.images.iter().filter(|image| !image.caption.is_empty()).count();
        let created_at = Utc::now();
        ImageSet {
            image_set_id: ImageSetId::generate(),
            name,
            source,
            digest: self.reference.digest.clone(),
            size_bytes: self.bytes.len() as i64,
            image_count: self.images.len() as i32,
            caption_count: captions as i32,
            verdicts,
            generation: None,
            created_at,
            record: Record::new(created_at, Labels::default()),
        }
    }
}

impl ClassImageSet {
    /// Writes the set as [`Self::to_zip`] does, and says where each image is.
    ///
    /// # Errors
    /// If an image cannot be read, or there is none.
    pub fn pack(&self) -> io::Result<PackedSet> {
        if self.is_empty() {
            return Err(io::Error::other("a set needs an image"));
        }
        let bytes = Bytes::from(self.to_zip()?);
        let mut archive = ZipArchive::new(Cursor::new(&bytes)).map_err(io::Error::other)?;
        let mut images = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let file = archive.by_index_raw(1 + index).map_err(io::Error::other)?; // after the metadata
            let start = file.data_start().ok_or_else(|| io::Error::other("no place in the zip"))?;
            images.push(image_at(&bytes, index, entry, start, file.size())?);
        }
        let reference = self.reference_to(&bytes);
        Ok(PackedSet { bytes, reference, images })
    }
}

fn image_at(
    zip: &[u8],
    index: usize,
    entry: &Entry,
    start: u64,
    size: u64,
) -> io::Result<SetImage> {
    let place = usize::try_from(start).ok().zip(usize::try_from(size).ok());
    let content = place.and_then(|(start, size)| zip.get(start..start + size));
    let content = content.ok_or_else(|| io::Error::other("an image lies outside of its zip"))?;
    Ok(SetImage {
        index: index as i32,
        path: entry.path.clone(),
        caption: entry.caption.clone(),
        sha256: Digest::of(content),
        position: start as i64,
        size_bytes: content.len() as i64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class_images::CaptionedFile;

    #[test]
    fn a_packed_set_says_where_its_images_are() {
        let file = |index: u8| CaptionedFile {
            path: format!("{index}.png"),
            caption: String::new(),
            bytes: vec![index; 3].into(),
        };
        let packed = ClassImageSet::from_files(vec![file(0), file(1)]).pack().unwrap();

        for (index, image) in packed.images.iter().enumerate() {
            let start = image.position as usize;
            let content = &packed.bytes[start..start + image.size_bytes as usize];
            assert_eq!(content, [index as u8; 3]);
            assert_eq!(image.path, format!("{index}.png"));
            assert_eq!(image.sha256, Digest::of(content));
        }
        assert_eq!(packed.reference.digest, Digest::of(&packed.bytes));
        assert!(ClassImageSet::default().pack().is_err());
    }
}
