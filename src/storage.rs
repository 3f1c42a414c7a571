//! Objects: photos, deltas and pictures, under keys that only this module spells.
//!
//! An object is written before the row that points to it and never changed. The keys of a job's results carry the
//! job and its fence: a worker that lost its lease writes beside its successor, never over it.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::domain::id::{ConceptId, ImageId, JobId};

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("object `{key}` cannot be reached")]
pub struct StorageError {
    pub key: String,
    #[source]
    source: object_store::Error,
}

/// The name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StorageKey(Path);

impl StorageKey {
    /// A photo of a concept.
    pub fn photo(concept: ConceptId, image: ImageId) -> Self {
        Self(Path::from(format!("concepts/{concept}/{image}.png")))
    }

    /// What a training or a merge has made.
    pub fn delta(job: JobId, fence: i64) -> Self {
        Self(Path::from(format!("jobs/{job}/{fence}/delta.safetensors")))
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

    /// Reads a whole object.
    pub async fn read(&self, key: &StorageKey) -> Result<Bytes, StorageError> {
        let object = self.store.get(&key.0).await.map_err(|source| Self::error(key, source))?;
        object.bytes().await.map_err(|source| Self::error(key, source))
    }

    fn error(key: &StorageKey, source: object_store::Error) -> StorageError {
        StorageError { key: key.as_str().to_owned(), source }
    }
}
