//! The check of a store at the start: that it does what the rest of the service relies on.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::error::StoreError;

/// For one answer of the store. A store that is this slow cannot be used.
const ANSWER: Duration = Duration::from_secs(2);

/// Where probes are; a check that is cut off leaves its probe, and gc collects it.
pub(super) const PROBES: &str = "probes";

/// Writes a probe, writes it again, reads, lists and deletes it.
pub(super) async fn check(store: &dyn ObjectStore) -> Result<(), StoreError> {
    let probe = Path::from(format!("{PROBES}/{}", uuid::Uuid::now_v7()));
    let only_once = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    let content = Bytes::from_static(b"1");
    within(store.put_opts(&probe, content.clone().into(), only_once())).await?;
    let checked = check_probe(store, &probe, &content, only_once()).await;
    let deleted = within(store.delete(&probe)).await;
    checked?;
    deleted?;
    match within(store.head(&probe)).await {
        Err(StoreError::NoContainer(_)) => Ok(()), // not found, as it should be
        Err(error) => Err(error),
        Ok(_) => Err(StoreError::DeletesTooLate),
    }
}

async fn check_probe(
    store: &dyn ObjectStore,
    probe: &Path,
    content: &Bytes,
    only_once: PutOptions,
) -> Result<(), StoreError> {
    let again = store.put_opts(probe, Bytes::from_static(b"2").into(), only_once);
    let again = tokio::time::timeout(ANSWER, again).await;
    match again.map_err(|_| StoreError::Silent(ANSWER))? {
        Err(object_store::Error::AlreadyExists { .. }) => {}
        Err(error) => return Err(StoreError::of(error)),
        Ok(_) => return Err(StoreError::IgnoresConditions),
    }
    let read = within(async { store.get(probe).await?.bytes().await }).await?;
    if read != content {
        return Err(StoreError::ReadsOtherBytes);
    }
    let folder = Path::from(PROBES);
    let is_listed = async {
        let mut listed = store.list(Some(&folder));
        while let Some(object) = listed.try_next().await? {
            if object.location == *probe {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match within(is_listed).await? {
        true => Ok(()),
        false => Err(StoreError::ListsTooLate),
    }
}

async fn within<T>(answer: impl Future<Output = object_store::Result<T>>) -> Result<T, StoreError> {
    let answer = tokio::time::timeout(ANSWER, answer).await;
    answer.map_err(|_| StoreError::Silent(ANSWER))?.map_err(StoreError::of)
}
