//! What is in a store: for whoever looks for objects that nothing refers to.

use std::path::{Path as FilePath, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{Stream, StreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::check::PROBES;
use super::{Storage, StorageError, StorageKey, path_of};

/// An object without its content.
#[derive(Clone, Debug)]
pub struct ObjectInfo {
    pub key: StorageKey,
    pub size_bytes: u64,
    /// By the store's clock.
    pub last_modified: DateTime<Utc>,
}

impl ObjectInfo {
    fn new(meta: object_store::ObjectMeta) -> Self {
        Self {
            key: StorageKey::from(meta.location.to_string()),
            size_bytes: meta.size,
            last_modified: meta.last_modified,
        }
    }
}

impl Storage {
    /// Lists the objects whose keys begin with this folder, in no particular order, a page of the store at a time.
    ///
    /// - `folder`: without a slash at its end
    pub fn list(
        &self,
        folder: &str,
    ) -> impl Stream<Item = Result<ObjectInfo, StorageError>> + use<> {
        let key = StorageKey::stored(folder);
        let listed = self.store.list(Some(&Path::from(folder)));
        listed.map(move |object| {
            object.map(ObjectInfo::new).map_err(|source| StorageError::new(&key, source))
        })
    }

    /// What is known of an object, `None` if there is none of this name.
    pub async fn info(&self, key: &StorageKey) -> Result<Option<ObjectInfo>, StorageError> {
        let path = path_of(key);
        let head = async {
            match self.store.head(&path).await {
                Ok(meta) => Ok(Some(ObjectInfo::new(meta))),
                Err(source) => match self.failed_read(key, source) {
                    StorageError::Missing { .. } => Ok(None),
                    error => Err(error),
                },
            }
        };
        self.within(key, self.limit_of(0), head).await
    }

    /// The time by the store's clock, which is the one that dates objects.
    pub async fn now(&self) -> Result<DateTime<Utc>, StorageError> {
        let probe = StorageKey::from(format!("{PROBES}/{}", uuid::Uuid::now_v7()));
        self.write(&probe, Bytes::from_static(b"now")).await?;
        let info = self.info(&probe).await;
        self.delete(&probe).await?;
        Ok(info?.map_or_else(Utc::now, |info| info.last_modified))
    }

    /// Files of a local store that were not finished because the process ended, and have not changed since.
    ///
    /// Other stores hide theirs; they are removed by a rule of the bucket.
    pub async fn unfinished(&self, before: DateTime<Utc>) -> std::io::Result<Vec<PathBuf>> {
        let Some(folder) = self.folder.clone() else { return Ok(Vec::new()) };
        let found = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            find_unfinished(&folder, before.into(), &mut found)?;
            Ok(found)
        });
        found.await.map_err(std::io::Error::other)?
    }
}

/// Files such as `1.png#1`, which is what [`object_store`] calls a file that it has not finished.
fn find_unfinished(
    folder: &FilePath,
    before: SystemTime,
    found: &mut Vec<PathBuf>,
) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        // Folders go with their last object.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            find_unfinished(&entry.path(), before, found)?;
            continue;
        }
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
        let is_unfinished = number
            .is_some_and(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()));
        if is_unfinished && meta.modified()? < before {
            found.push(entry.path());
        }
    }
    Ok(())
}
