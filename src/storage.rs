//! Objects: photos, deltas and pictures, under keys that only this module spells.
//!
//! An object is written before the row that points to it and never changed. The keys of a job's results carry the
//! job and its fence: a worker that lost its lease writes beside its successor, never over it.

use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use crate::domain::id::{ConceptId, ImageId, JobId};

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("object `{key}` cannot be reached")]
pub struct StorageError {
    pub key: String,
    #[source]
    source: object_store::Error,
}

/// Why an object store cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("`{0}` is neither a folder nor a URL such as s3://bucket/prefix")]
    NotAPlace(String),
    #[error("the folder cannot be made")]
    Folder(#[from] std::io::Error),
    #[error("the object store does not answer")]
    Unreachable(#[from] object_store::Error),
    /// Results of two workers could overwrite each other there.
    #[error(
        "it overwrites an object that was to be created only if absent: use a store with conditional puts"
    )]
    IgnoresConditions,
}

/// The name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StorageKey(Path);

impl StorageKey {
    /// A photo of a concept.
    pub fn photo(concept: ConceptId, image: ImageId) -> Self {
        Self(Path::from(format!("concepts/{concept}/{image}.png")))
    }

    /// An image to start samples from.
    pub fn upload(image: ImageId) -> Self {
        Self(Path::from(format!("uploads/{image}.png")))
    }

    /// What a training or a merge has made.
    pub fn delta(job: JobId, fence: i64) -> Self {
        Self(Path::from(format!("jobs/{job}/{fence}/delta.safetensors")))
    }

    /// What merges need of a delta that a job has made; the key has the digest by which it is checked.
    pub fn pack(job: JobId, fence: i64, sha256: &str) -> Self {
        Self(Path::from(format!("jobs/{job}/{fence}/pack-{sha256}.safetensors")))
    }

    /// What all merges over a base model and a set of captions have in common, by the digests of both.
    pub fn merge_base(base_digest: &str, captions_digest: &str) -> Self {
        Self(Path::from(format!("base-models/{base_digest}/merge-{captions_digest}.safetensors")))
    }

    /// A set of class images, by the digest of its content.
    pub fn image_set(digest: &str) -> Self {
        Self(Path::from(format!("image-sets/{digest}.zip")))
    }

    /// Picture `index` of a sample.
    pub fn sample(job: JobId, fence: i64, index: usize) -> Self {
        Self(Path::from(format!("jobs/{job}/{fence}/{index}.png")))
    }

    /// A key as a row has it.
    pub fn stored(text: &str) -> Self {
        Self(Path::from(text))
    }

    /// The key as a row has it.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }
}

/// The object store.
#[derive(Clone, Debug)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
}

impl Storage {
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// Opens `s3://bucket/prefix`, `gs://…` or `az://…` with credentials from the environment (`AWS_ACCESS_KEY_ID`,
    /// `AWS_ENDPOINT`, …), or a folder, which is made.
    ///
    /// # Errors
    /// [`StoreError`] if the place is not one; whether it answers is for [`Self::check`] to see.
    pub fn open(place: &str) -> Result<Self, StoreError> {
        if !place.contains("://") {
            std::fs::create_dir_all(place)?;
            let store = LocalFileSystem::new_with_prefix(place)?.with_automatic_cleanup(true);
            return Ok(Self::new(Arc::new(store)));
        }
        let url = url::Url::parse(place).map_err(|_| StoreError::NotAPlace(place.to_owned()))?;
        let environment = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let (store, prefix) = object_store::parse_url_opts(&url, environment)?;
        Ok(Self::new(Arc::new(PrefixStore::new(store, prefix))))
    }

    /// Writes, writes again and removes a probe.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`], or [`StoreError::IgnoresConditions`] for a store that lets the second write pass.
    pub async fn check(&self) -> Result<(), StoreError> {
        let probe = Path::from(format!("probes/{}", uuid::Uuid::now_v7()));
        let only_once = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.store.put_opts(&probe, Bytes::from_static(b"1").into(), only_once()).await?;
        let again = self.store.put_opts(&probe, Bytes::from_static(b"2").into(), only_once()).await;
        self.store.delete(&probe).await?;
        match again {
            Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Err(StoreError::IgnoresConditions),
        }
    }

    /// A store that lives as long as the process, for tests.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()))
    }

    /// Writes an object.
    pub async fn write(
        &self,
        key: &StorageKey,
        content: impl Into<Bytes>,
    ) -> Result<(), StorageError> {
        let written = self.store.put(&key.0, content.into().into()).await;
        written.map(drop).map_err(|source| Self::error(key, source))
    }

    /// Returns whether there is an object of this name, without reading it.
    pub async fn exists(&self, key: &StorageKey) -> Result<bool, StorageError> {
        match self.store.head(&key.0).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(Self::error(key, source)),
        }
    }

    /// Reads a whole object.
    pub async fn read(&self, key: &StorageKey) -> Result<Bytes, StorageError> {
        let object = self.store.get(&key.0).await.map_err(|source| Self::error(key, source))?;
        object.bytes().await.map_err(|source| Self::error(key, source))
    }

    /// Reads a whole object, `None` if there is none of this name.
    pub async fn read_if_there(&self, key: &StorageKey) -> Result<Option<Bytes>, StorageError> {
        match self.store.get(&key.0).await {
            Ok(object) => object.bytes().await.map(Some).map_err(|source| Self::error(key, source)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(Self::error(key, source)),
        }
    }

    fn error(key: &StorageKey, source: object_store::Error) -> StorageError {
        StorageError { key: key.as_str().to_owned(), source }
    }
}
