//! Image sets: captioned images under one digest, for regularization and as reference images.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::id::ImageSetId;
use super::record::Record;
use super::scheduler::SchedulerName;
use super::storage_key::StorageKey;

/// The most images of an uploaded set.
pub const MAX_SET_IMAGES: usize = 20_000;

/// The most entries of an uploaded archive, whatever they are.
pub const MAX_ARCHIVE_ENTRIES: usize = 100_000;

/// The most bytes of a set's files, after decompression.
pub const MAX_SET_BYTES: u64 = 512 * 1024 * 1024;

/// The largest `metadata.jsonl`.
pub const MAX_METADATA_BYTES: u64 = 64 * 1024 * 1024;

/// The largest file with one caption, and the longest caption.
pub const MAX_CAPTION_BYTES: usize = 64 * 1024;

/// The longest name of a set, in characters.
pub const MAX_SET_NAME: usize = 200;

/// Where an image set comes from.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum ImageSetSource {
    /// A user has uploaded it.
    Uploaded,
    /// The base model has generated it for a training.
    Generated,
    /// The class images that come with a base model.
    BaseModel,
}

/// A set as the catalog has it; its files are one object in the store.
#[derive(Clone, Debug)]
pub struct ImageSet {
    pub image_set_id: ImageSetId,
    pub name: String,
    pub source: ImageSetSource,
    /// The digest of the object: of the images and captions in the order of their paths, and of nothing else.
    pub digest: Digest,
    pub size_bytes: i64,
    pub image_count: i32,
    /// How many of the images have a caption.
    pub caption_count: i32,
    /// What was noticed when it was uploaded.
    pub verdicts: Verdicts,
    /// How it was generated; generated sets only.
    pub generation: Option<Generation>,
    pub created_at: DateTime<Utc>,
    pub record: Record,
}

impl ImageSet {
    /// How tasks name the set.
    pub fn reference(&self) -> ImageSetRef {
        ImageSetRef {
            digest: self.digest.clone(),
            storage_key: StorageKey::image_set(&self.digest),
            count: usize::try_from(self.image_count).unwrap_or(0),
        }
    }
}

/// A set of captioned class images in the object store.
///
/// A task names the set by its content, so that every worker trains the same delta from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSetRef {
    /// Digest of the object.
    pub digest: Digest,
    pub storage_key: StorageKey,
    /// How many images it has.
    pub count: usize,
}

/// All that determines a generated set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Generation {
    /// The digest of the base model.
    pub base_model_digest: Digest,
    /// The prompt of all images, which is also their caption.
    pub prompt: String,
    /// The number of images.
    pub num_images: usize,
    pub num_inference_steps: usize,
    pub guidance_scale: f64,
    pub scheduler: SchedulerName,
    pub eta: f64,
    /// Width and height in pixels: those that the base model was trained on.
    pub size: usize,
    pub seed: u64,
}

impl Generation {
    /// By which a set that was generated before is found again.
    pub fn digest(&self) -> Digest {
        // Numbers and texts: this cannot fail.
        Digest::of(serde_json::to_vec(self).unwrap_or_default())
    }
}

/// One image of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetImage {
    /// Its place in the set.
    pub index: i32,
    /// Its path in the folder or archive that it came in.
    pub path: String,
    /// Empty if it has none.
    pub caption: String,
    /// The digest of its file.
    pub sha256: Digest,
    /// Where its file begins in the set's object.
    pub position: i64,
    pub size_bytes: i64,
}

/// The most files that verdicts list; all are counted.
pub const MAX_VERDICTS: usize = 1_000;

/// What was noticed about the files of an upload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Verdicts {
    /// The number of files that are no part of an image set and were left out.
    pub ignored: usize,
    /// The number of images with the same bytes as another one.
    pub duplicate: usize,
    /// The number of warnings.
    pub warning: usize,
    /// The number of images that cannot be read and were left out.
    pub broken: usize,
    /// The verdicts, at most 1000.
    pub files: Vec<FileVerdict>,
}

impl Verdicts {
    /// Counts a verdict, and lists it if there is room.
    pub fn add(&mut self, verdict: FileVerdict) {
        let count = match verdict.status {
            FileStatus::Ignored => &mut self.ignored,
            FileStatus::Duplicate => &mut self.duplicate,
            FileStatus::Warning => &mut self.warning,
            FileStatus::Broken => &mut self.broken,
        };
        *count += 1;
        if self.files.len() < MAX_VERDICTS {
            self.files.push(verdict);
        }
    }
}

/// What was noticed about one file of an upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileVerdict {
    /// The path of the file in the archive.
    pub path: String,
    pub status: FileStatus,
    /// What was noticed, in a sentence.
    pub detail: String,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileStatus {
    /// It is no part of an image set, such as `.DS_Store`; it has been left out.
    Ignored,
    /// An image with the same bytes as another one. Both are in the set.
    Duplicate,
    /// It is in the set, or says something about it, but probably not as intended.
    Warning,
    /// An image that cannot be read; it has been left out.
    Broken,
}
