//! Images: those that users upload, and those that samples have generated.

use std::io::Seek;

use bytes::Bytes;
use chrono::Utc;

use super::download::{Downloadable, Owner};
use super::photo::{self, Photo, PhotoError};
use super::quota::Need;
use super::upload_memory::ReceivedFile;
use super::{App, Caller, Refusal};
use crate::allocator::return_freed_memory;
use crate::db;
use crate::domain::id::{ImageId, JobId, SampleId};
use crate::domain::image::{Image, ImageSource, ThumbnailWidth};
use crate::domain::invalid::FieldError;
use crate::domain::job::Preview;
use crate::domain::page::{Page, PageOf};
use crate::domain::photo::{Measures, Thumbnail};
use crate::domain::record::{ExternalId, Labels, Record};
use crate::domain::sample::SampleTask;
use crate::domain::storage_key::StorageKey;
use crate::few_threads;
use crate::photo_file;
use crate::thumbnails;

/// What storing a PNG takes in memory: two parts of a large one.
const STORED_AT_ONCE: u64 = 16 << 20;

/// A bug in reading or decoding a file. The panic itself is in the log.
pub(super) fn broke_off(_panic: Box<dyn std::any::Any + Send>) -> Refusal {
    Refusal::Internal("reading a file panicked".into())
}

/// What decoding takes of a file whose memory goes back to the system before the next file gets its turn. Otherwise what each of the
/// threads has freed would be kept for a while, beside what the next one takes.
const LARGE: u64 = 32 << 20;

/// A file that a client has sent.
#[derive(Debug)]
pub struct UploadedFile {
    pub file_name: Option<String>,
    pub content: ReceivedFile,
}

impl App {
    /// Stores an image that samples can start from.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the file is not a usable image.
    pub async fn add_upload(&self, caller: &Caller, file: UploadedFile) -> Result<Image, Refusal> {
        let image = self.stage_image(file, "/file").await?;
        let mut tx = self.db.begin().await?;
        if let Err(refusal) = self.reserve(&mut tx, caller, Need::Bytes(image.size_bytes)).await {
            drop(tx);
            self.discard_image(image).await;
            return Err(refusal);
        }
        self.claim_key(&mut tx, image.image_id).await?;
        db::image::record(&mut *tx, caller.project_id(), &image).await?;
        tx.commit().await?;
        Ok(image)
    }

    /// Decodes a file and writes its object, as an image to start samples from that has no row yet.
    ///
    /// - `pointer`: to the file in the request
    pub(super) async fn stage_image(
        &self,
        file: UploadedFile,
        pointer: &str,
    ) -> Result<Image, Refusal> {
        let photo = self.decode(file.content).await?;
        let photo =
            photo.map_err(|error| FieldError::new(pointer, error.code(), error.to_string()))?;
        let image_id = ImageId::generate();
        let source = ImageSource::Upload { file_name: file.file_name };
        self.store(image_id, source, &StorageKey::upload(image_id), photo).await
    }

    /// Deletes the object of an image that has no row. What cannot be deleted only wastes space.
    pub(super) async fn discard_image(&self, image: Image) {
        if let Err(error) = self.storage.delete(&image.storage_key).await {
            tracing::warn!(%error, "the object of an image that was not added stays");
        }
    }

    /// Returns what is known about an image.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none of this id.
    pub async fn image(&self, caller: &Caller, id: ImageId) -> Result<Image, Refusal> {
        let image = db::image::find(&self.db, caller.project_id(), id).await?;
        image.ok_or_else(|| Refusal::not_found("image", id))
    }

    /// Returns what is known about a photo of a concept.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such concept, or if it has no such photo.
    pub async fn photo(
        &self,
        caller: &Caller,
        concept: &str,
        id: ImageId,
    ) -> Result<Image, Refusal> {
        let concept_id = self.find_concept(caller, concept).await?.concept_id;
        let image = self.image(caller, id).await?;
        match image.source {
            ImageSource::Photo { concept_id: of, .. } if of == concept_id => Ok(image),
            ImageSource::Photo { .. } | ImageSource::Upload { .. } | ImageSource::Sample { .. } => {
                Err(Refusal::not_found("photo", id))
            }
        }
    }

    /// An image's PNG.
    pub fn image_file(&self, image: &Image) -> Downloadable {
        let of = Owner::new("image", image.image_id);
        self.downloadable(of, &image.storage_key, 0, image.size_bytes, &image.sha256)
    }

    /// A small copy of an image, as WebP.
    ///
    /// # Errors
    /// If the image's object is lost, or there is no memory to decode it in time.
    pub async fn thumbnail(&self, image: &Image, width: ThumbnailWidth) -> Result<Bytes, Refusal> {
        let make = async || {
            let pixels = 3 * image.width.unsigned_abs() as u64 * image.height.unsigned_abs() as u64;
            let room = self.uploads.room(pixels + image.size_bytes.unsigned_abs()).await?;
            let png = self.storage.read_checked(&image.storage_key, &image.sha256).await;
            let png = png.map_err(|error| Refusal::of_object("image", image.image_id, error))?;
            let encoded = few_threads::run(move || {
                let encoded = thumbnails::encode(&png, width);
                if pixels >= LARGE {
                    return_freed_memory();
                }
                drop(room);
                encoded
            });
            encoded.await.map_err(broke_off)?.map_err(Refusal::internal)
        };
        self.thumbnails.get_or_make(&image.sha256, width, make).await
    }

    /// Lists the images that were uploaded for a concept: all, or the one with this external id.
    pub async fn images_of_concept(
        &self,
        caller: &Caller,
        concept: &str,
        external_id: Option<&ExternalId>,
        page: Page,
    ) -> Result<PageOf<Image>, Refusal> {
        let concept_id = self.find_concept(caller, concept).await?.concept_id;
        let more = page.with_one_more();
        Ok(page.cut(db::image::list_of_concept(&self.db, concept_id, external_id, more).await?))
    }

    /// Returns the newest preview of one image of a running sample.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such sample, or no preview of this image now.
    pub async fn preview(
        &self,
        caller: &Caller,
        sample_id: SampleId,
        index: i32,
    ) -> Result<Preview, Refusal> {
        self.standing::<SampleTask>(caller, sample_id).await?;
        let preview = db::preview::find(&self.db, JobId::from(sample_id), index).await?;
        preview.ok_or_else(|| Refusal::not_found("preview of image", index))
    }

    /// Decodes a file on a thread of its own, once there is memory for what its header says.
    pub(super) async fn decode(
        &self,
        file: ReceivedFile,
    ) -> Result<Result<Photo, PhotoError>, Refusal> {
        self.decode_by(file, photo::normalize).await
    }

    /// The same for a mask, which becomes gray.
    pub(super) async fn decode_mask(
        &self,
        file: ReceivedFile,
    ) -> Result<Result<Photo, PhotoError>, Refusal> {
        self.decode_by(file, photo::normalize_mask).await
    }

    async fn decode_by(
        &self,
        mut file: ReceivedFile,
        normalize: fn(&[u8]) -> Result<Photo, PhotoError>,
    ) -> Result<Result<Photo, PhotoError>, Refusal> {
        let turn = self.uploads.header().await?;
        let read = few_threads::run(move || {
            let cost = file.read().map(|bytes| bytes.and_then(|bytes| photo::cost(&bytes)));
            (cost, file)
        });
        let (cost, mut file) = read.await.map_err(broke_off)?;
        drop(turn);
        let cost = match cost.map_err(Refusal::internal)? {
            Ok(cost) => cost,
            Err(error) => return Ok(Err(error)),
        };
        let room = self.uploads.room(cost).await?;
        let decoded = few_threads::run(move || {
            let photo = file.read().map(|bytes| bytes.and_then(|bytes| normalize(&bytes)));
            if cost >= LARGE {
                return_freed_memory();
            }
            drop(room);
            photo
        });
        match decoded.await.map_err(broke_off)?.map_err(Refusal::internal)? {
            Err(PhotoError::Disk(error)) => Err(Refusal::internal(error)),
            photo => Ok(photo),
        }
    }

    /// Measures a photo that is stored.
    pub(super) async fn measure(&self, image: &Image) -> Result<(Measures, Thumbnail), Refusal> {
        let pixels = 3 * image.width.unsigned_abs() as u64 * image.height.unsigned_abs() as u64;
        let room = self.uploads.room(pixels + image.size_bytes.unsigned_abs()).await?;
        let png = self.storage.read_checked(&image.storage_key, &image.sha256).await;
        let png = png.map_err(|error| Refusal::of_object("image", image.image_id, error))?;
        let measured = few_threads::run(move || {
            let measured = photo_file::read(&png).map(|pixels| pixels.measure());
            if pixels >= LARGE {
                return_freed_memory();
            }
            drop(room);
            measured
        });
        measured.await.map_err(broke_off)?.map_err(Refusal::internal)
    }

    /// Writes an uploaded image's object and returns its row, for the caller to record.
    pub(super) async fn store(
        &self,
        image_id: ImageId,
        source: ImageSource,
        key: &StorageKey,
        mut photo: Photo,
    ) -> Result<Image, Refusal> {
        let created_at = Utc::now();
        let image = Image {
            image_id,
            source,
            width: photo.width as i32,
            height: photo.height as i32,
            size_bytes: photo.size_bytes as i64,
            sha256: photo.sha256,
            storage_key: key.clone(),
            regions: Vec::new(),
            created_at,
            record: Record::new(created_at, Labels::default()),
        };
        photo.png.rewind().map_err(Refusal::internal)?;
        // Held until a slow store has it.
        let _room = self.uploads.room(photo.size_bytes.min(STORED_AT_ONCE)).await?;
        self.storage.write_from(key, photo.png, photo.size_bytes).await?;
        Ok(image)
    }
}
