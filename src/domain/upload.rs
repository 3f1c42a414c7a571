//! Files that clients send to the object store by a signed URL.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::digest::Digest;
use super::id::{ConceptId, ImageId, UploadId};
use super::storage_key::StorageKey;

/// How long a URL can be used.
pub const UPLOAD_WITHIN: Duration = Duration::from_secs(15 * 60);

/// A file that a client has announced.
#[derive(Clone, Debug)]
pub struct Upload {
    pub upload_id: UploadId,
    /// Whose photo it becomes; `None` for an image to start samples from.
    pub concept_id: Option<ConceptId>,
    pub caption: Option<String>,
    pub file_name: String,
    pub size_bytes: i64,
    /// The digest that the file must have.
    pub sha256: Digest,
    /// What it has become.
    pub image_id: Option<ImageId>,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub completed_at: Option<DateTime<Utc>>,
}

impl Upload {
    /// The object that the URL names. It is read once, when the upload is completed.
    pub fn storage_key(&self) -> StorageKey {
        StorageKey::incoming(self.upload_id)
    }

    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.completed_at.is_none() && self.expires_at <= now
    }
}
