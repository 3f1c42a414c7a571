//! The end of a presigned upload: its file becomes a photo or an image.

use chrono::Utc;

use crate::app::concept_photo::{DescribedPhoto, StagedPhoto, bytes_of};
use crate::app::image::UploadedFile;
use crate::app::photo::PhotoError;
use crate::app::quota::Need;
use crate::app::upload_memory::ReceivedFile;
use crate::app::{App, Caller, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::digest::Digest;
use crate::domain::id::UploadId;
use crate::domain::image::Image;
use crate::domain::invalid::FieldError;
use crate::domain::upload::Upload;
use crate::storage::StorageError;

/// What a completed upload has become.
#[derive(Clone, Debug)]
pub struct CompletedUpload {
    pub upload: Upload,
    pub image: UploadedImage,
}

/// A photo of a concept, or an image to start samples from.
#[derive(Clone, Debug)]
pub enum UploadedImage {
    Photo(Box<DescribedPhoto>),
    Image(Box<Image>),
    /// It was deleted since.
    Gone,
}

impl App {
    /// Looks at the file of an upload and makes it a photo or an image. Completed again, it answers the same.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Conflict`] if the file has not arrived or the upload has expired; [`Refusal::Invalid`] if the
    /// file is not the announced one, or cannot be a photo.
    pub async fn complete_upload(
        &self,
        caller: &Caller,
        id: UploadId,
    ) -> Result<CompletedUpload, Refusal> {
        let upload = self.upload(caller, id).await?;
        if upload.completed_at.is_some() {
            return self.completed(caller, upload).await;
        }
        if upload.is_expired(Utc::now()) {
            return Err(closed(&upload));
        }
        let content = self.fetch_upload(&upload).await?;
        let file = UploadedFile { file_name: Some(upload.file_name.clone()), content };
        let upload = match upload.concept_id {
            None => self.complete_image(caller, upload, file).await?,
            Some(_) => self.complete_photo(caller, upload, file).await?,
        };
        // What is sent to the URL from now on is litter, and gc takes it.
        if let Err(error) = self.storage.delete(&upload.storage_key()).await {
            tracing::debug!(%error, "the file of a completed upload stays until it is collected");
        }
        self.completed(caller, upload).await
    }

    /// Reads the file that has arrived, once: from here on the object may change as it likes.
    async fn fetch_upload(&self, upload: &Upload) -> Result<ReceivedFile, Refusal> {
        let key = upload.storage_key();
        let size = upload.size_bytes.unsigned_abs();
        let missing = || {
            let detail = "the file has not arrived: send it with PUT to the upload's URL first";
            Refusal::Conflict(FieldError::new("", Code::UploadIncomplete, detail))
        };
        let Some(info) = self.storage.info(&key).await? else { return Err(missing()) };
        if info.size_bytes != size {
            return Err(
                not_announced(format!("it has {} bytes, not {size}", info.size_bytes)).into()
            );
        }
        let _room = self.uploads.room(size).await?;
        // A range, so that an object that has grown since is not read whole.
        let bytes = match self.storage.read_range(&key, 0..size).await {
            Ok(bytes) => bytes,
            Err(StorageError::Missing { .. }) => return Err(missing()),
            Err(StorageError::Damaged { .. }) => {
                return Err(not_announced("it has changed meanwhile".to_owned()).into());
            }
            Err(error) => return Err(error.into()),
        };
        check_content(upload, &bytes)?;
        let mut content = self.receive();
        content.push(&bytes).await?;
        Ok(content)
    }

    async fn complete_image(
        &self,
        caller: &Caller,
        upload: Upload,
        file: UploadedFile,
    ) -> Result<Upload, Refusal> {
        let image = self.stage_image(file, "").await?;
        let mut tx = self.db.begin().await?;
        let locked = match self.reserve(&mut tx, caller, Need::Bytes(image.size_bytes)).await {
            Ok(()) => self.lock_upload(&mut tx, caller, upload.upload_id).await,
            Err(refusal) => Err(refusal),
        };
        match locked {
            Ok(locked) if locked.completed_at.is_none() => {}
            done_or_refused => {
                self.discard_image(image).await;
                return done_or_refused;
            }
        }
        db::image::record(&mut *tx, caller.project_id(), &image).await?;
        db::upload::complete(&mut *tx, upload.upload_id, image.image_id).await?;
        tx.commit().await?;
        self.upload(caller, upload.upload_id).await
    }

    async fn complete_photo(
        &self,
        caller: &Caller,
        upload: Upload,
        file: UploadedFile,
    ) -> Result<Upload, Refusal> {
        let refused = |error: PhotoError| FieldError::new("", error.code(), error.to_string());
        let concept = self.concept_of(caller, &upload).await?;
        let mut staged: StagedPhoto =
            self.stage_photo(caller, &concept, file).await?.map_err(refused)?;
        staged.notes.caption.clone_from(&upload.caption);
        let mut tx = self.db.begin().await?;
        let room = Need::Bytes(bytes_of(std::slice::from_ref(&staged)));
        let locked = match self.reserve(&mut tx, caller, room).await {
            Ok(()) => self.lock_upload(&mut tx, caller, upload.upload_id).await,
            Err(refusal) => Err(refusal),
        };
        let added = match locked {
            Ok(locked) if locked.completed_at.is_some() => {
                self.discard_photos(caller, &concept, vec![staged]).await;
                return Ok(locked);
            }
            Ok(_) => self.add_photos_in(&mut tx, caller, &concept, vec![staged.clone()]).await,
            Err(refusal) => Err(refusal),
        };
        let (mut verdicts, left_out) = match added {
            Ok(added) => added,
            Err(refusal) => {
                self.discard_photos(caller, &concept, vec![staged]).await;
                return Err(refusal);
            }
        };
        let photo = match verdicts.pop() {
            Some(Ok(photo)) => photo,
            Some(Err(error)) => {
                self.discard_photos(caller, &concept, left_out).await;
                return Err(refused(error).into());
            }
            None => return Err(Refusal::internal("a photo has no verdict")),
        };
        db::upload::complete(&mut *tx, upload.upload_id, photo.image.image_id).await?;
        tx.commit().await?;
        self.upload(caller, upload.upload_id).await
    }

    async fn lock_upload(
        &self,
        tx: &mut sqlx::PgConnection,
        caller: &Caller,
        id: UploadId,
    ) -> Result<Upload, Refusal> {
        let upload = db::upload::lock(tx, caller.project_id(), id).await?;
        upload.ok_or_else(|| Refusal::not_found("upload", id))
    }

    async fn concept_of(&self, caller: &Caller, upload: &Upload) -> Result<Concept, Refusal> {
        let id = upload.concept_id.map(|id| id.to_string()).unwrap_or_default();
        self.find_concept(caller, &id).await
    }

    /// What has become of a completed upload.
    pub(super) async fn completed(
        &self,
        caller: &Caller,
        upload: Upload,
    ) -> Result<CompletedUpload, Refusal> {
        let image = match (upload.image_id, upload.concept_id) {
            (None, _) => UploadedImage::Gone,
            (Some(id), None) => UploadedImage::Image(Box::new(self.image(caller, id).await?)),
            (Some(id), Some(_)) => {
                let concept = self.concept_of(caller, &upload).await?;
                let photo = self.photo_of_concept(caller, &concept, id).await?;
                UploadedImage::Photo(Box::new(photo))
            }
        };
        Ok(CompletedUpload { upload, image })
    }
}

/// Compares a file with what was announced.
pub(super) fn check_content(upload: &Upload, bytes: &[u8]) -> Result<(), FieldError> {
    let announced = upload.size_bytes.unsigned_abs();
    if bytes.len() as u64 != announced {
        return Err(not_announced(format!("it has {} bytes, not {announced}", bytes.len())));
    }
    let actual = Digest::of(bytes);
    if actual != upload.sha256 {
        return Err(not_announced(format!("its SHA-256 is {actual}, not {}", upload.sha256)));
    }
    Ok(())
}

fn not_announced(how: String) -> FieldError {
    let detail =
        format!("the file is not the announced one: {how}; send that one, or announce this one");
    FieldError::new("", Code::DigestMismatch, detail)
}

/// The refusal of a file, or of a completion, that comes too late.
pub(super) fn closed(upload: &Upload) -> Refusal {
    let detail = match upload.completed_at {
        Some(_) => "the upload is completed: what is sent now has no effect; announce a new one",
        None => "the upload has expired: announce a new one",
    };
    Refusal::Conflict(FieldError::new("", Code::UploadClosed, detail))
}
