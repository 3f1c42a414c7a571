//! Images: those that users upload, and those that samples have generated.

use bytes::Bytes;
use chrono::Utc;

use super::photo::{self, Photo, PhotoError};
use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::concept::Concept;
use crate::domain::id::{ImageId, JobId, SampleId};
use crate::domain::image::{Image, ImageSource, MAX_PHOTOS};
use crate::domain::invalid::FieldError;
use crate::domain::job::Preview;
use crate::domain::page::{Page, PageOf};
use crate::domain::sample::SampleTask;
use crate::domain::storage_key::StorageKey;

/// A file that a client has sent.
#[derive(Clone, Debug)]
pub struct UploadedFile {
    pub file_name: Option<String>,
    /// `None` if the file is larger than [`MAX_PHOTO_BYTES`](crate::domain::image::MAX_PHOTO_BYTES): then it need not be
    /// kept in memory.
    pub content: Option<Vec<u8>>,
}

impl App {
    /// Adds an image to a concept, or says why the file cannot be one.
    ///
    /// The outer error is about the request as a whole, the inner one about this file.
    pub async fn add_photo(
        &self,
        _caller: &Caller,
        concept: &Concept,
        file: UploadedFile,
    ) -> Result<Result<Image, PhotoError>, Refusal> {
        let photo = match self.decode(file.content).await? {
            Ok(photo) => photo,
            Err(error) => return Ok(Err(error)),
        };
        let image_id = ImageId::generate();
        let source =
            ImageSource::Photo { concept_id: concept.concept_id, file_name: file.file_name };
        let key = StorageKey::photo(concept.concept_id, image_id);
        // The object comes before its row: an object without a row is litter, a row without an object would be a bug.
        let image = self.store(image_id, source, &key, photo).await?;
        self.record_photo(concept, image).await
    }

    /// Stores an image that samples can start from.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the file is not a usable image.
    pub async fn add_upload(&self, _caller: &Caller, file: UploadedFile) -> Result<Image, Refusal> {
        let photo = self.decode(file.content).await?;
        let photo =
            photo.map_err(|error| FieldError::new("/file", error.code(), error.to_string()))?;
        let image_id = ImageId::generate();
        let source = ImageSource::Upload { file_name: file.file_name };
        let image = self.store(image_id, source, &StorageKey::upload(image_id), photo).await?;
        db::image::record(&self.db, &image).await?;
        Ok(image)
    }

    /// Returns what is known about an image.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is none of this id.
    pub async fn image(&self, _caller: &Caller, id: ImageId) -> Result<Image, Refusal> {
        let image = db::image::find(&self.db, id).await?;
        image.ok_or_else(|| Refusal::not_found("image", id))
    }

    /// Returns an image's PNG.
    pub async fn image_file(&self, _caller: &Caller, image: &Image) -> Result<Bytes, Refusal> {
        Ok(self.storage.read(&image.storage_key).await?)
    }

    /// Lists the images that were uploaded for a concept, newest first.
    pub async fn images_of_concept(
        &self,
        caller: &Caller,
        concept: &str,
        page: Page,
    ) -> Result<PageOf<Image>, Refusal> {
        let concept_id = self.find_concept(caller, concept).await?.concept_id;
        let page_and_one = page.with_one_more();
        Ok(page.cut(db::image::list_of_concept(&self.db, concept_id, page_and_one).await?))
    }

    /// Returns the newest preview of one image of a running sample.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such sample, or no preview of this image now.
    pub async fn preview(
        &self,
        _caller: &Caller,
        sample_id: SampleId,
        index: i32,
    ) -> Result<Preview, Refusal> {
        self.find_job::<SampleTask>(sample_id).await?;
        let preview = db::preview::find(&self.db, JobId::from(sample_id), index).await?;
        preview.ok_or_else(|| Refusal::not_found("preview of image", index))
    }

    /// Decodes a file on a thread of its own, as many at once as there are cores.
    async fn decode(&self, file: Option<Vec<u8>>) -> Result<Result<Photo, PhotoError>, Refusal> {
        let Some(file) = file else { return Ok(Err(PhotoError::TooManyBytes)) };
        let permit = self.decoders.clone().acquire_owned().await.map_err(Refusal::internal)?;
        let decoded = tokio::task::spawn_blocking(move || {
            let photo = photo::normalize(&file);
            drop(permit);
            photo
        });
        decoded.await.map_err(Refusal::internal)
    }

    /// Writes an uploaded image's object and returns its row, for the caller to record.
    async fn store(
        &self,
        image_id: ImageId,
        source: ImageSource,
        key: &StorageKey,
        photo: Photo,
    ) -> Result<Image, Refusal> {
        let image = Image {
            image_id,
            source,
            width: photo.width as i32,
            height: photo.height as i32,
            size_bytes: photo.png.len() as i64,
            sha256: photo.sha256,
            storage_key: key.clone(),
            created_at: Utc::now(),
        };
        self.storage.write(key, photo.png).await?;
        Ok(image)
    }

    /// Records an image of a concept unless the concept has it already, or has as many as it can.
    async fn record_photo(
        &self,
        concept: &Concept,
        image: Image,
    ) -> Result<Result<Image, PhotoError>, Refusal> {
        let mut tx = self.db.begin().await?;
        db::concept::lock(&mut *tx, concept.concept_id).await?;
        let counts = db::image::count_of_concepts(&mut *tx, &[concept.concept_id]).await?;
        if counts.first().is_some_and(|(_, count)| *count >= MAX_PHOTOS as i64) {
            return Ok(Err(PhotoError::TooMany));
        }
        match db::image::record(&mut *tx, &image).await {
            Ok(()) => tx.commit().await?,
            Err(error) if db::broken_constraint(&error) == Some(db::image::PHOTO_IS_UNIQUE) => {
                return Ok(Err(PhotoError::Duplicate));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Ok(image))
    }
}
