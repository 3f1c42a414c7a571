//! Objects: photos, deltas and generated images.
//!
//! An object is written before the row that points to it and never changed. A store that does not answer is given up after
//! [`ANSWER`], so that a request can say so while its client still waits; a worker tries again later.

mod check;
mod error;
mod list;
mod open;
mod sign;
mod write;

use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

pub use self::error::{StorageError, StoreError};
pub use self::list::ObjectInfo;
pub use self::sign::SignedUrl;
pub use crate::domain::storage_key::StorageKey;

use crate::domain::digest::Digest;

/// How long a store may give no answer, repetitions included.
pub const ANSWER: Duration = Duration::from_secs(8);

/// The time in addition to [`ANSWER`] in which a write must get on.
const SLOWEST_BYTES_PER_SECOND: usize = 1024 * 1024;

/// Larger objects are hashed on a thread of their own.
const HASHED_AT_ONCE: usize = 256 * 1024;

/// The object store.
#[derive(Clone, Debug)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    /// The same store, but what fails is not tried again.
    probed: Arc<dyn ObjectStore>,
    /// What signs URLs for clients, if the store has such.
    signer: Option<Arc<dyn Signer>>,
    /// Headers that a PUT of such a URL needs.
    put_headers: &'static [(&'static str, &'static str)],
    /// Its folder, if it is one.
    folder: Option<Arc<FilePath>>,
    /// How long it may give no answer; `None` for a disk, which takes as long as it does.
    answer: Option<Duration>,
}

impl Storage {
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            probed: store.clone(),
            store,
            signer: None,
            put_headers: &[],
            folder: None,
            answer: None,
        }
    }

    /// Gives the store up after this time without an answer.
    #[must_use]
    pub fn with_limit(self, answer: Duration) -> Self {
        Self { answer: Some(answer), ..self }
    }

    /// Opens `s3://bucket/prefix`, `gs://…` or `az://…` with credentials from the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_ENDPOINT`, …), or a folder, which is made.
    ///
    /// # Errors
    /// [`StoreError`] if the place is not one; whether it answers is for [`Self::check`] to see.
    pub fn open(place: &str) -> Result<Self, StoreError> {
        Self::open_with(place, &std::env::vars().collect::<Vec<_>>())
    }

    /// The same with these settings in place of the environment's.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_with(place: &str, settings: &[(String, String)]) -> Result<Self, StoreError> {
        open::open(place, settings)
    }

    /// Writes, writes again, reads, lists and removes a probe, within some seconds.
    ///
    /// # Errors
    /// The first thing that the store does not do, such as [`StoreError::IgnoresConditions`] if it lets the second write pass.
    pub async fn check(&self) -> Result<(), StoreError> {
        check::check(self.probed.as_ref()).await
    }

    /// Asks for an object that is not there: the cheapest question that the store itself answers.
    pub async fn answers(&self) -> Result<(), StoreError> {
        match self.probed.head(&Path::from("probes/none")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(StoreError::of(error)),
        }
    }

    /// A store that lives as long as the process, for tests.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()))
    }

    /// Returns whether there is an object of this name, without reading it.
    pub async fn exists(&self, key: &StorageKey) -> Result<bool, StorageError> {
        Ok(self.info(key).await?.is_some())
    }

    /// Reads a whole object.
    pub async fn read(&self, key: &StorageKey) -> Result<Bytes, StorageError> {
        self.get(key, GetOptions::default()).await
    }

    /// Reads a whole object and compares it with its digest.
    ///
    /// - `sha256`: `None` where an earlier version recorded none
    ///
    /// # Errors
    /// [`StorageError::Damaged`] if its bytes have another digest.
    pub async fn read_checked(
        &self,
        key: &StorageKey,
        sha256: impl Into<Option<&Digest>>,
    ) -> Result<Bytes, StorageError> {
        let sha256 = sha256.into();
        let bytes = self.read(key).await?;
        match sha256 {
            Some(sha256) => check_digest(key, bytes, sha256).await,
            None => Ok(bytes),
        }
    }

    /// Reads a part of an object.
    pub async fn read_range(
        &self,
        key: &StorageKey,
        range: Range<u64>,
    ) -> Result<Bytes, StorageError> {
        let options =
            GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let read = self.get(key, options).await;
        let is_whole = match &read {
            Ok(bytes) => bytes.len() as u64 == range.end - range.start,
            // Stores say in ways of their own that a range begins behind the end.
            Err(StorageError::Unreachable { .. }) => {
                self.info(key).await?.is_none_or(|info| info.size_bytes >= range.end)
            }
            Err(_) => true,
        };
        match is_whole {
            true => read,
            false => {
                let reason = format!("it ends before byte {}", range.end);
                Err(StorageError::Damaged { key: key.clone(), reason })
            }
        }
    }

    /// Reads a part of an object that has a digest of its own.
    ///
    /// # Errors
    /// [`StorageError::Damaged`] if the part has another digest.
    pub async fn read_range_checked(
        &self,
        key: &StorageKey,
        range: Range<u64>,
        sha256: &Digest,
    ) -> Result<Bytes, StorageError> {
        check_digest(key, self.read_range(key, range).await?, sha256).await
    }

    /// Reads a whole object, `None` if there is none of this name.
    pub async fn read_if_there(&self, key: &StorageKey) -> Result<Option<Bytes>, StorageError> {
        match self.read(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StorageError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object, if it is there.
    pub async fn delete(&self, key: &StorageKey) -> Result<(), StorageError> {
        let path = path_of(key);
        let deleted = async {
            match self.store.delete(&path).await {
                // S3 says so of objects that were not there; other stores do not.
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(source) => Err(StorageError::new(key, source)),
            }
        };
        self.within(key, self.limit_of(0), deleted).await
    }

    /// Reads what is asked for. A store that goes on sending may take as long as it needs.
    async fn get(&self, key: &StorageKey, options: GetOptions) -> Result<Bytes, StorageError> {
        let path = path_of(key);
        let limit = self.limit_of(0);
        let failed = |source| self.failed_read(key, source);
        let begun = async { self.store.get_opts(&path, options).await.map_err(failed) };
        let object = self.within(key, limit, begun).await?;
        let size = (object.range.end - object.range.start) as usize;
        let mut chunks = object.into_stream();
        let mut bytes: Option<BytesMut> = None;
        let mut only: Option<Bytes> = None;
        loop {
            let next = async { chunks.try_next().await.map_err(failed) };
            let Some(chunk) = self.within(key, limit, next).await? else { break };
            match (&mut bytes, only.take()) {
                (Some(bytes), _) => bytes.extend_from_slice(&chunk),
                (None, None) => only = Some(chunk), // most objects come in one chunk
                (None, Some(first)) => {
                    let mut all = BytesMut::with_capacity(size);
                    all.extend_from_slice(&first);
                    all.extend_from_slice(&chunk);
                    bytes = Some(all);
                }
            }
        }
        Ok(bytes.map(BytesMut::freeze).or(only).unwrap_or_default())
    }

    /// A file of a folder that is not there itself, such as a disk that is not mounted, is not missing but out of reach.
    fn failed_read(&self, key: &StorageKey, source: object_store::Error) -> StorageError {
        let is_gone = self.folder.as_ref().is_some_and(|folder| !folder.is_dir());
        match StorageError::new(key, source) {
            StorageError::Missing { key, source } if is_gone => {
                StorageError::Unreachable { key, source }
            }
            error => error,
        }
    }

    /// How long an answer may take.
    fn limit_of(&self, size_bytes: usize) -> Option<Duration> {
        let writing = Duration::from_secs((size_bytes / SLOWEST_BYTES_PER_SECOND) as u64);
        self.answer.map(|answer| answer + writing)
    }

    async fn within<T>(
        &self,
        key: &StorageKey,
        limit: Option<Duration>,
        answer: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let Some(after) = limit else { return answer.await };
        let silent = |_| StorageError::Silent { key: key.clone(), after };
        tokio::time::timeout(after, answer).await.map_err(silent)?
    }
}

/// Compares bytes with the digest that their row has.
async fn check_digest(
    key: &StorageKey,
    bytes: Bytes,
    sha256: &Digest,
) -> Result<Bytes, StorageError> {
    let actual = match bytes.len() {
        0..=HASHED_AT_ONCE => Digest::of(&bytes),
        _ => {
            let hashed = bytes.clone();
            let digest = tokio::task::spawn_blocking(move || Digest::of(&hashed)).await;
            digest.unwrap_or_else(|_| Digest::of(&bytes))
        }
    };
    if actual == *sha256 {
        return Ok(bytes);
    }
    let reason = format!(
        "its {} bytes have the SHA-256 {actual:.12}, it was stored with {sha256:.12}",
        bytes.len()
    );
    Err(StorageError::Damaged { key: key.clone(), reason })
}

fn path_of(key: &StorageKey) -> Path {
    Path::from(key.as_str())
}
