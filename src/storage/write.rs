//! Writing: whole, in parts, and again after an answer was lost.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use object_store::{
    Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, Result,
};

use super::{Storage, StorageError, StorageKey, path_of};
use crate::domain::digest::Digest;
use crate::few_threads;

/// Objects above this size are written in parts.
const WHOLE_BYTES: usize = 16 * 1024 * 1024;

/// Size of a part; S3 takes up to ten thousand of them.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// Parts that are on their way at a time.
const PARTS_AT_ONCE: usize = 4;

/// Before a creation is tried again.
const PAUSE: Duration = Duration::from_millis(200);

impl Storage {
    /// Creates an object. If there is one of this name, it must have the same bytes: then it is this one, of which only the
    /// answer was lost.
    ///
    /// # Errors
    /// [`StorageError::Taken`] if there is another object of this name.
    pub async fn write(
        &self,
        key: &StorageKey,
        content: impl Into<Bytes>,
    ) -> std::result::Result<(), StorageError> {
        let content = content.into();
        if content.len() > WHOLE_BYTES {
            // Parts cannot be put together on a condition. The name has the job and its fence, so nobody else writes there.
            return self.replace(key, content).await;
        }
        let limit = self.limit_of(content.len());
        self.within(key, limit, self.create(key, &content)).await
    }

    /// Creates an object from a file, of which a few parts are in memory at a time.
    ///
    /// - `file`: read from where it stands
    ///
    /// # Errors
    /// As for [`Self::write`]; [`StorageError::Unreachable`] if the file cannot be read.
    pub async fn write_from(
        &self,
        key: &StorageKey,
        mut file: impl std::io::Read + Send + 'static,
        size_bytes: u64,
    ) -> std::result::Result<(), StorageError> {
        if size_bytes <= WHOLE_BYTES as u64 {
            let (content, _) = read_part(file, WHOLE_BYTES).await;
            let content = content.map_err(|source| StorageError::new(key, unreadable(source)))?;
            return self.write(key, content).await;
        }
        let failed = |source| StorageError::new(key, source);
        let begun = async { self.store.put_multipart(&path_of(key)).await.map_err(failed) };
        let mut upload = Upload(Some(self.within(key, self.limit_of(0), begun).await?));
        let limit = self.limit_of(PART_BYTES);
        let mut on_its_way: Option<object_store::UploadPart> = None;
        loop {
            let (part, rest) = read_part(file, PART_BYTES).await;
            let part = part.map_err(|source| failed(unreadable(source)))?;
            if let Some(before) = on_its_way.take() {
                self.within(key, limit, async { before.await.map_err(failed) }).await?;
            }
            if part.is_empty() {
                break;
            }
            on_its_way = Some(upload.part(part.into()));
            file = rest;
        }
        let complete = async { upload.complete().await.map_err(failed) };
        self.within(key, self.limit_of(size_bytes as usize), complete).await
    }

    /// Writes an object whether or not there is one: for what follows from something else and may be made again.
    pub async fn replace(
        &self,
        key: &StorageKey,
        content: impl Into<Bytes>,
    ) -> std::result::Result<(), StorageError> {
        let content = content.into();
        let limit = self.limit_of(content.len());
        let written = async {
            let written = match content.len() > WHOLE_BYTES {
                true => self.put_parts(key, content).await,
                false => self.store.put(&path_of(key), content.into()).await.map(drop),
            };
            written.map_err(|source| StorageError::new(key, source))
        };
        self.within(key, limit, written).await
    }

    /// Tries until there is an answer; whoever waits sets the limit. The client of the store does not repeat a creation
    /// whose answer was cut off. Here that is safe, since the second one finds what the first has written.
    async fn create(
        &self,
        key: &StorageKey,
        content: &Bytes,
    ) -> std::result::Result<(), StorageError> {
        for _ in 0..2 {
            match self.create_once(key, content).await {
                Err(error) if matches!(error, StorageError::Unreachable { .. }) => {
                    tracing::debug!(%error, %key, "an object is written again");
                }
                done => return done,
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.create_once(key, content).await
    }

    async fn create_once(
        &self,
        key: &StorageKey,
        content: &Bytes,
    ) -> std::result::Result<(), StorageError> {
        let only_once = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let payload = PutPayload::from_bytes(content.clone());
        match self.store.put_opts(&path_of(key), payload, only_once).await {
            Ok(_) => Ok(()),
            Err(Error::AlreadyExists { .. }) => {
                let there = self.store.get(&path_of(key)).await;
                let there = match there {
                    Ok(object) if object.meta.size == content.len() as u64 => object.bytes().await,
                    Ok(_) => return Err(StorageError::Taken { key: key.clone() }),
                    Err(error) => Err(error),
                };
                let there = there.map_err(|source| StorageError::new(key, source))?;
                if Digest::of(&there) != Digest::of(content) {
                    return Err(StorageError::Taken { key: key.clone() });
                }
                // Written again, it is young again: gc must not take an old stray that is about to get its row.
                let written = self.store.put(&path_of(key), content.clone().into()).await;
                written.map(drop).map_err(|source| StorageError::new(key, source))
            }
            Err(source) => Err(StorageError::new(key, source)),
        }
    }

    /// Writes parts side by side and puts them together: an object appears when all of it is there.
    async fn put_parts(&self, key: &StorageKey, content: Bytes) -> Result<()> {
        let mut upload = Upload(Some(self.store.put_multipart(&path_of(key)).await?));
        let mut on_their_way = FuturesUnordered::new();
        for start in (0..content.len()).step_by(PART_BYTES) {
            if on_their_way.len() == PARTS_AT_ONCE {
                on_their_way.next().await.transpose()?;
            }
            let part = content.slice(start..content.len().min(start + PART_BYTES));
            on_their_way.push(upload.part(part.into()));
        }
        while let Some(part) = on_their_way.next().await {
            part?;
        }
        upload.complete().await
    }
}

/// Reads up to `most` bytes, fewer only at the end, on one of the threads for that.
async fn read_part<R: std::io::Read + Send + 'static>(
    mut file: R,
    most: usize,
) -> (std::io::Result<Bytes>, R) {
    let read = few_threads::run(move || {
        let mut part = Vec::new();
        let read = std::io::Read::take(&mut file, most as u64).read_to_end(&mut part);
        (read.map(|_| Bytes::from(part)), file)
    });
    match read.await {
        Ok(read) => read,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn unreadable(source: std::io::Error) -> Error {
    Error::Generic { store: "a temporary file", source: source.into() }
}

/// An upload in parts, whose parts are removed unless it is completed.
struct Upload(Option<Box<dyn MultipartUpload>>);

impl Upload {
    fn part(&mut self, part: PutPayload) -> object_store::UploadPart {
        match &mut self.0 {
            Some(upload) => upload.put_part(part),
            None => Box::pin(async { Ok(()) }), // after its completion, which consumes it
        }
    }

    async fn complete(mut self) -> Result<()> {
        if let Some(upload) = &mut self.0 {
            upload.complete().await?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(mut upload), Ok(runtime)) =
            (self.0.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move {
            if let Err(error) = upload.abort().await {
                tracing::warn!(%error, "the parts of an upload that failed stay in the object store");
            }
        });
    }
}
