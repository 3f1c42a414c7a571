//! Presigned uploads: a client announces a file, sends it to the object store itself, and completes the upload.
//!
//! The URL goes on to be valid for a while, so what it names is read once: the bytes whose digest is compared are the bytes that are
//! decoded, and what is kept is a PNG under a key that no URL names.

mod completion;

use chrono::Utc;

use self::completion::{check_content, closed};
use super::image::broke_off;
use super::upload_memory::ReceivedFile;
use super::{App, Caller, Refusal};
use crate::db;
use crate::domain::code::Code;
use crate::domain::digest::Digest;
use crate::domain::id::UploadId;
use crate::domain::image::{MAX_PHOTO_BYTES, readable_name};
use crate::domain::invalid::{Checks, FieldError};
use crate::domain::upload::{UPLOAD_WITHIN, Upload};
use crate::few_threads;

pub use self::completion::{CompletedUpload, UploadedImage};

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
    /// Headers that the request with the file needs.
    pub headers: &'static [(&'static str, &'static str)],
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
        let (url, headers, token_sha256): (_, &[_], _) = match signed {
            Some(signed) => (signed.url, signed.headers, None),
            None => {
                let token = random_token();
                (format!("/uploads/{token}"), &[], Some(Digest::of(&token)))
            }
        };
        let token_sha256 = token_sha256.as_deref();
        let mut tx = self.db.begin().await?;
        self.claim_key(&mut tx, upload.upload_id).await?;
        db::upload::record(&mut *tx, caller.project_id(), &upload, token_sha256).await?;
        tx.commit().await?;
        Ok(OpenUpload { upload, url, headers })
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

/// 256 random bits, as a URL has them.
fn random_token() -> String {
    let bits = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.into_bytes()).collect();
    data_encoding::BASE64URL_NOPAD.encode(&bytes)
}
