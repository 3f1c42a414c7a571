//! Objects: photos, deltas and generated images.
//!
//! An object is written before the row that points to it and never changed.

use std::sync::Arc;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

pub use crate::domain::storage_key::StorageKey;

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("object `{key}` cannot be reached")]
pub struct StorageError {
    pub key: String,
    #[source]
    source: object_store::Error,
}

impl StorageError {
    /// Whether the same request may succeed in a moment: the store was away, or too busy.
    pub fn is_transient(&self) -> bool {
        !matches!(
            self.source,
            object_store::Error::NotFound { .. }
                | object_store::Error::InvalidPath { .. }
                | object_store::Error::NotSupported { .. }
                | object_store::Error::NotImplemented { .. }
                | object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotModified { .. }
                | object_store::Error::PermissionDenied { .. }
                | object_store::Error::Unauthenticated { .. }
                | object_store::Error::UnknownConfigurationKey { .. }
        )
    }
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

    /// Asks for an object that is not there: the cheapest question that the store itself answers.
    pub async fn answers(&self) -> Result<(), StoreError> {
        match self.store.head(&Path::from("probes/none")).await {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
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
        let written = self.store.put(&path_of(key), content.into().into()).await;
        written.map(drop).map_err(|source| Self::error(key, source))
    }

    /// Returns whether there is an object of this name, without reading it.
    pub async fn exists(&self, key: &StorageKey) -> Result<bool, StorageError> {
        match self.store.head(&path_of(key)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(Self::error(key, source)),
        }
    }

    /// Reads a whole object.
    pub async fn read(&self, key: &StorageKey) -> Result<Bytes, StorageError> {
        let object =
            self.store.get(&path_of(key)).await.map_err(|source| Self::error(key, source))?;
        object.bytes().await.map_err(|source| Self::error(key, source))
    }

    /// Reads a part of an object.
    pub async fn read_range(
        &self,
        key: &StorageKey,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes, StorageError> {
        let read = self.store.get_range(&path_of(key), range).await;
        read.map_err(|source| Self::error(key, source))
    }

    /// Reads a whole object, `None` if there is none of this name.
    pub async fn read_if_there(&self, key: &StorageKey) -> Result<Option<Bytes>, StorageError> {
        match self.store.get(&path_of(key)).await {
            Ok(object) => object.bytes().await.map(Some).map_err(|source| Self::error(key, source)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(Self::error(key, source)),
        }
    }

    /// Deletes an object, if it is there.
    pub async fn delete(&self, key: &StorageKey) -> Result<(), StorageError> {
        match self.store.delete(&path_of(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(Self::error(key, source)),
        }
    }

    fn error(key: &StorageKey, source: object_store::Error) -> StorageError {
        StorageError { key: key.as_str().to_owned(), source }
    }
}

fn path_of(key: &StorageKey) -> Path {
    Path::from(key.as_str())
}
