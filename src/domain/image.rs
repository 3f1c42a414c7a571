//! Images: those that users upload, and those that samples generate.

use chrono::{DateTime, Utc};

use super::composition::UsedRegion;
use super::digest::Digest;
use super::id::{ConceptId, ImageId, SampleId};
use super::record::Record;
use super::storage_key::StorageKey;

/// Photos that one concept can have.
pub const MAX_PHOTOS: usize = 100;

/// The largest file of a photo.
pub const MAX_PHOTO_BYTES: usize = 20 * 1024 * 1024;

/// The longest side of a photo, in pixels.
pub const MAX_PHOTO_SIDE: u32 = 8_192;

/// The most pixels of a photo.
pub const MAX_PHOTO_PIXELS: u64 = 50_000_000;

/// The shortest side of a photo, in pixels.
pub const MIN_PHOTO_SIDE: u32 = 32;

/// An image as the catalog has it; its PNG is an object in the store.
#[derive(Clone, Debug)]
pub struct Image {
    pub image_id: ImageId,
    pub source: ImageSource,
    pub width: i32,
    pub height: i32,
    pub size_bytes: i64,
    /// The digest of the PNG.
    pub sha256: Digest,
    pub storage_key: StorageKey,
    /// Where concepts were drawn; none unless the image was composed by regions.
    pub regions: Vec<UsedRegion>,
    pub created_at: DateTime<Utc>,
    pub record: Record,
}

/// Where an image comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageSource {
    /// A user's photo of a concept.
    Photo { concept_id: ConceptId, file_name: Option<String> },
    /// A user's image to start samples from.
    Upload { file_name: Option<String> },
    /// Image `index` of a sample.
    Sample { sample_id: SampleId, index: i32 },
}
