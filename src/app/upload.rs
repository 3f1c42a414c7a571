//! Presigned uploads: a client announces a file, sends it to the object store itself, and completes the upload.
//!
//! The URL goes on to be valid for a while, so what it names is read once: the bytes whose digest is compared are the bytes that are
//! decoded, and what is kept is a PNG under a key that no URL names.

use chrono::Utc;

use super::concept_photo::{DescribedPhoto, StagedPhoto, bytes_of};
use super::image::{UploadedFile, broke_off};
use super::photo::PhotoError;
use super::quota::Need;
use super::upload_memory::ReceivedFile;
use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::Concept;
use crate::domain::digest::Digest;
use crate::domain::id::UploadId;
use crate::domain::image::{Image, MAX_PHOTO_BYTES, readable_name};
use crate::domain::invalid::{Checks, FieldError};
use crate::domain::upload::{UPLOAD_WITHIN, Upload};
use crate::few_threads;
use crate::storage::StorageError;

/// A file that a client is going to send.
#[derive(Clone, Debug)]
pub struct NewUpload {
    pub file_name: String,
    pub size_bytes: i64,
    pub content_type: String,
    pub sha256: String,
    /// The concept whose photo it becomes; `None` for an image to start samples from.
    pub concept: Option<String>,
    pub caption: Option<String>,
}

/// An upload, and where its file goes.
#[derive(Clone, Debug)]
pub struct OpenUpload {
    pub upload: Upload,
    /// Beginning with `/`, it is a path of this service.
    pub url: String,
}

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
    /// Announces a file.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for a size, type or digest that cannot be; [`Refusal::NotFound`] if the concept does not exist.
    pub async fn announce_upload(
        &self,
        caller: &Caller,
        new: NewUpload,
    ) -> Result<OpenUpload, Refusal> {
        new.check()?;
        let concept = match &new.concept {
            Some(name) => Some(self.find_concept(caller, name).await?),
            None => None,
        };
        if let (Some(concept), Some(caption)) = (&concept, &new.caption) {
            self.check_caption(concept, caption, "/caption")?;
        }
        let created_at = Utc::now();
        let upload = Upload {
            upload_id: UploadId::generate(),
            concept_id: concept.map(|concept| concept.concept_id),
            caption: new.caption,
            file_name: readable_name(&new.file_name),
            size_bytes: new.size_bytes,
            sha256: new.sha256.to_ascii_lowercase().into(),
            image_id: None,
            created_at,
            expires_at: created_at + UPLOAD_WITHIN,
            completed_at: None,
        };
        let signed = self.storage.upload_url(&upload.storage_key(), UPLOAD_WITHIN).await?;
        let (url, token_sha256) = match signed {
            Some(url) => (url, None),
            None => {
                let token = random_token();
                (format!("/uploads/{token}"), Some(Digest::of(&token)))
            }
        };
        let token_sha256 = token_sha256.as_deref();
        let mut tx = self.db.begin().await?;
        self.claim_key(&mut tx, upload.upload_id).await?;
        db::upload::record(&mut *tx, caller.project_id(), &upload, token_sha256).await?;
        tx.commit().await?;
        Ok(OpenUpload { upload, url })
    }

    async fn upload(&self, caller: &Caller, id: UploadId) -> Result<Upload, Refusal> {
        let upload = db::upload::find(&self.db, caller.project_id(), id).await?;
        upload.ok_or_else(|| Refusal::not_found("upload", id))
    }

    /// Returns an upload with what it has become.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]
    pub async fn find_upload(
        &self,
        caller: &Caller,
        id: UploadId,
    ) -> Result<CompletedUpload, Refusal> {
        let upload = self.upload(caller, id).await?;
        self.completed(caller, upload).await
    }

    /// Finds the upload whose file this service takes itself. The token of its URL is all the right that is needed.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::Conflict`] once it is completed or expired.
    pub async fn upload_of_token(&self, token: &str) -> Result<Upload, Refusal> {
        let found = db::upload::find_by_token(&self.db, &Digest::of(token)).await?;
        let upload = found.ok_or_else(|| Refusal::not_found("upload", "of this URL"))?;
        if upload.completed_at.is_some() || upload.is_expired(Utc::now()) {
            return Err(closed(&upload));
        }
        Ok(upload)
    }

    /// Stores the file of an upload, in place of one that has arrived before.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if it has another size or digest than announced.
    pub async fn receive_upload(
        &self,
        upload: &Upload,
        mut file: ReceivedFile,
    ) -> Result<(), Refusal> {
        let _room = self.uploads.room(upload.size_bytes.unsigned_abs()).await?;
        let read = few_threads::run(move || file.read());
        let bytes = read.await.map_err(broke_off)?.map_err(Refusal::internal)?;
        let bytes = bytes.map_err(|error| FieldError::new("", error.code(), error.to_string()))?;
        check_content(upload, &bytes)?;
        self.storage.replace(&upload.storage_key(), bytes).await?;
        Ok(())
    }

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
    async fn completed(&self, caller: &Caller, upload: Upload) -> Result<CompletedUpload, Refusal> {
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

impl NewUpload {
    fn check(&self) -> Result<(), Refusal> {
        let mut checks = Checks::default();
        checks.in_range(self.size_bytes, 1..=MAX_PHOTO_BYTES as i64, "/size_bytes");
        let is_digest =
            self.sha256.len() == 64 && self.sha256.bytes().all(|b| b.is_ascii_hexdigit());
        checks.require(is_digest, "/sha256", Code::InvalidValue, || {
            "the SHA-256 of the file, in 64 hexadecimal digits".to_owned()
        });
        let is_name = (1..=1_000).contains(&self.file_name.chars().count());
        checks.require(is_name, "/filename", Code::OutOfRange, || {
            "a file name has 1 to 1000 characters".to_owned()
        });
        let is_taken = ["image/png", "image/jpeg", "image/webp"]
            .contains(&self.content_type.to_ascii_lowercase().as_str());
        checks.require(is_taken, "/content_type", Code::UnsupportedImage, || {
            "image/png, image/jpeg or image/webp: convert other images before they are sent"
                .to_owned()
        });
        checks.require(
            self.caption.is_none() || self.concept.is_some(),
            "/caption",
            Code::NotApplicable,
            || "only photos of a concept have captions: name the concept".to_owned(),
        );
        Ok(checks.finish()?)
    }
}

/// Compares a file with what was announced.
fn check_content(upload: &Upload, bytes: &[u8]) -> Result<(), FieldError> {
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

fn closed(upload: &Upload) -> Refusal {
    let detail = match upload.completed_at {
        Some(_) => "the upload is completed: what is sent now has no effect; announce a new one",
        None => "the upload has expired: announce a new one",
    };
    Refusal::Conflict(FieldError::new("", Code::UploadClosed, detail))
}

/// 256 random bits, as a URL has them.
fn random_token() -> String {
    let bits = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.into_bytes()).collect();
    data_encoding::BASE64URL_NOPAD.encode(&bytes)
}
