//! Downloads: objects in pieces, as the client reads them.
//!
//! Each piece is a request of its own to the object store. A client that reads slowly holds one piece of memory and no
//! connection to the store.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use sha2::Digest as _;

use super::{App, Refusal};
use crate::domain::digest::Digest;
use crate::storage::{Storage, StorageError, StorageKey};

/// Bytes that are read and sent at once.
const PIECE: u64 = 1 << 20;

/// The bytes of a file, in order. It ends with an error if the file cannot be read to its end, or is not what its row says.
pub type ByteStream = BoxStream<'static, io::Result<Bytes>>;

/// What a client can download.
#[derive(Clone, Debug)]
pub struct Downloadable {
    source: Source,
    size_bytes: u64,
}

/// The row that a file belongs to, for the answer if its object is lost.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    what: &'static str,
    id: String,
}

impl Owner {
    pub(super) fn new(what: &'static str, id: impl std::fmt::Display) -> Self {
        Self { what, id: id.to_string() }
    }

    fn refusal(&self, error: StorageError) -> Refusal {
        Refusal::of_object(self.what, &self.id, error)
    }
}

#[derive(Clone, Debug)]
enum Source {
    Object {
        of: Owner,
        storage: Storage,
        key: StorageKey,
        /// Where the file begins in the object.
        start: u64,
        sha256: Digest,
    },
    File(Arc<File>),
}

impl App {
    /// A file that is a whole object, or a part of one.
    ///
    /// - `of`: the row that it belongs to
    pub(super) fn downloadable(
        &self,
        of: Owner,
        key: &StorageKey,
        start: u64,
        size_bytes: i64,
        sha256: &Digest,
    ) -> Downloadable {
        let (storage, key, sha256) = (self.storage.clone(), key.clone(), sha256.clone());
        let source = Source::Object { of, storage, key, start, sha256 };
        Downloadable { source, size_bytes: size_bytes.unsigned_abs() }
    }
}

impl Downloadable {
    /// What was computed for the client. It waits on the disk, not in memory.
    pub(super) async fn spooled(bytes: Vec<u8>) -> Result<Self, Refusal> {
        let size_bytes = bytes.len() as u64;
        let written = tokio::task::spawn_blocking(move || {
            let file = tempfile::tempfile()?;
            file.write_all_at(&bytes, 0)?;
            Ok::<_, io::Error>(file)
        });
        let file = written.await.map_err(Refusal::internal)?.map_err(Refusal::internal)?;
        Ok(Self { source: Source::File(Arc::new(file)), size_bytes })
    }

    /// Size of the whole file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The first bytes of the file, by which its format is known.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn beginning(&self) -> Result<Bytes, Refusal> {
        self.source.read(0..self.size_bytes.min(16)).await
    }

    /// Opens a part of the file. If it is the whole file, its digest is checked before the last piece is sent.
    ///
    /// # Errors
    /// If its first piece cannot be read, or if that is the whole file and the digest is another.
    pub async fn open(self, range: Range<u64>) -> Result<ByteStream, Refusal> {
        let mut reader = Reader {
            digest: (range == (0..self.size_bytes)).then(sha2::Sha256::new),
            source: self.source,
            left: range,
        };
        let Some(first) = reader.next().await? else { return Ok(stream::empty().boxed()) };
        let rest = stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(reader))),
                Ok(None) => None,
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "a download broke off");
                    Some((Err(io::Error::other(error)), None))
                }
            }
        });
        Ok(stream::once(async { Ok(first) }).chain(rest).boxed())
    }
}

struct Reader {
    source: Source,
    left: Range<u64>,
    /// Of what has been read, if the whole file is.
    digest: Option<sha2::Sha256>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let piece = self.left.start..self.left.end.min(self.left.start + PIECE);
        let bytes = self.source.read(piece.clone()).await?;
        self.left.start = piece.end;
        let Some(digest) = &mut self.digest else { return Ok(Some(bytes)) };
        digest.update(&bytes);
        if self.left.is_empty()
            && let Source::Object { of, key, sha256, .. } = &self.source
            && data_encoding::HEXLOWER.encode(&digest.clone().finalize()) != **sha256
        {
            let reason = format!("its bytes do not have the SHA-256 {sha256:.12} of its row");
            return Err(of.refusal(StorageError::Damaged { key: key.clone(), reason }));
        }
        Ok(Some(bytes))
    }
}

impl Source {
    async fn read(&self, range: Range<u64>) -> Result<Bytes, Refusal> {
        match self {
            Self::Object { of, storage, key, start, .. } => {
                let read = storage.read_range(key, start + range.start..start + range.end).await;
                read.map_err(|error| of.refusal(error))
            }
            Self::File(file) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let mut bytes = vec![0; (range.end - range.start) as usize];
                    file.read_exact_at(&mut bytes, range.start)?;
                    Ok::<_, io::Error>(bytes.into())
                });
                read.await.map_err(Refusal::internal)?.map_err(Refusal::internal)
            }
        }
    }
}
