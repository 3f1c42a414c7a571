//! Memory for uploads, in bytes over all requests.
//!
//! Files that arrive wait on disk, but for a block each. What takes memory is decoding: a request reads a file's header, then waits
//! until there is room for what the header says. One that finds none in time is refused, so that neither a slow object store, nor many
//! clients, nor small files of many pixels can fill the memory.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::photo::PhotoError;
use super::{App, Refusal};
use crate::domain::image::MAX_PHOTO_BYTES;
use crate::photo_file;

/// The unit in which memory and room on the disk are handed out.
const PIECE: usize = 1 << 20;

/// What is in memory of each file that arrives.
const BLOCK: usize = 256 << 10;

/// Files whose headers are read at once. Such a file is in memory, and has no share of it yet.
const HEADERS_AT_ONCE: usize = 2;

/// How much memory and disk uploads may take.
#[derive(Clone, Copy, Debug)]
pub struct UploadLimits {
    /// Of all files together that have not been decoded yet, in bytes on the disk.
    pub received_bytes: usize,
    /// Of all images together while they are decoded, encoded and stored, in bytes of memory.
    pub decoding_bytes: usize,
    /// How long a request waits for its turn.
    pub patience: Duration,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            received_bytes: 2 << 30,
            decoding_bytes: 192 << 20,
            patience: Duration::from_secs(20),
        }
    }
}

/// The room that is left.
#[derive(Clone, Debug)]
pub(super) struct UploadMemory {
    received: Arc<Semaphore>,
    decoding: Arc<Semaphore>,
    decoding_pieces: usize,
    headers: Arc<Semaphore>,
    patience: Duration,
}

/// A file as far as it has arrived, and its share of the disk.
#[derive(Debug)]
pub struct ReceivedFile {
    /// What is not on the disk yet.
    block: Vec<u8>,
    spool: Option<File>,
    size_bytes: usize,
    /// Why the file is not kept any longer.
    refused: Option<PhotoError>,
    room: Option<OwnedSemaphorePermit>,
    memory: UploadMemory,
}

impl UploadMemory {
    pub(super) fn new(limits: UploadLimits) -> Self {
        let decoding_pieces = limits.decoding_bytes.div_ceil(PIECE).max(1);
        Self {
            received: Arc::new(Semaphore::new(limits.received_bytes.div_ceil(PIECE))),
            decoding: Arc::new(Semaphore::new(decoding_pieces)),
            decoding_pieces,
            headers: Arc::new(Semaphore::new(HEADERS_AT_ONCE)),
            patience: limits.patience,
        }
    }

    /// A share of the memory for images, for as long as the permit is held. Nothing gets more than all of it.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`]
    pub(super) async fn room(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Refusal> {
        let pieces = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(PIECE).max(1);
        self.wait_for(&self.decoding, pieces.min(self.decoding_pieces)).await
    }

    /// The turn to read a file's header.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`]
    pub(super) async fn header(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.wait_for(&self.headers, 1).await
    }

    async fn wait_for(
        &self,
        permits: &Arc<Semaphore>,
        count: usize,
    ) -> Result<OwnedSemaphorePermit, Refusal> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let permits = permits.clone().acquire_many_owned(count);
        match tokio::time::timeout(self.patience, permits).await {
            Ok(permit) => permit.map_err(Refusal::internal),
            Err(_) => Err(Refusal::Overloaded),
        }
    }
}

impl App {
    /// Begins to receive a file.
    pub fn receive(&self) -> ReceivedFile {
        ReceivedFile {
            block: Vec::new(),
            spool: None,
            size_bytes: 0,
            refused: None,
            room: None,
            memory: self.uploads.clone(),
        }
    }

    /// Sets how much memory and disk uploads may take.
    pub fn with_upload_limits(self, limits: UploadLimits) -> Self {
        self.with(|parts| parts.uploads = UploadMemory::new(limits))
    }
}

impl ReceivedFile {
    /// Appends what has arrived, once there is room for it. Of a file that cannot be a photo, by its size or its first bytes, no more
    /// is kept.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`]; [`Refusal::Internal`] if the disk fails.
    pub async fn push(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        if self.refused.is_some() {
            return Ok(());
        }
        let before = self.size_bytes;
        self.size_bytes += chunk.len();
        if self.size_bytes > MAX_PHOTO_BYTES {
            self.refuse(PhotoError::TooManyBytes);
            return Ok(());
        }
        let held = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = self.size_bytes.div_ceil(PIECE).saturating_sub(held);
        if missing > 0 {
            let more = self.memory.wait_for(&self.memory.received, missing).await?;
            match &mut self.room {
                Some(room) => room.merge(more),
                None => self.room = Some(more),
            }
        }
        self.block.extend_from_slice(chunk);
        if before < photo_file::BEGINNING
            && self.block.len() >= photo_file::BEGINNING
            && let Err(error) = photo_file::check_beginning(&self.block)
        {
            self.refuse(error.into());
            return Ok(());
        }
        if self.block.len() >= BLOCK {
            self.spool_block().await?;
        }
        Ok(())
    }

    fn refuse(&mut self, error: PhotoError) {
        (self.block, self.spool, self.room) = (Vec::new(), None, None);
        self.refused = Some(error);
    }

    async fn spool_block(&mut self) -> Result<(), Refusal> {
        let block = std::mem::take(&mut self.block);
        let spool = self.spool.take();
        let written = tokio::task::spawn_blocking(move || {
            let mut spool = match spool {
                Some(spool) => spool,
                None => tempfile::tempfile()?,
            };
            spool.write_all(&block)?;
            Ok::<File, std::io::Error>(spool)
        });
        let written = written.await.map_err(Refusal::internal)?;
        self.spool = Some(written.map_err(Refusal::internal)?);
        Ok(())
    }

    /// The whole file in memory. Blocks.
    ///
    /// # Errors
    /// Inside, why the file cannot be a photo; outside, if the disk fails.
    pub(super) fn read(&mut self) -> std::io::Result<Result<Vec<u8>, PhotoError>> {
        if let Some(error) = self.refused.take() {
            return Ok(Err(error));
        }
        let mut bytes = Vec::with_capacity(self.size_bytes);
        if let Some(spool) = &mut self.spool {
            spool.rewind()?;
            spool.read_to_end(&mut bytes)?;
        }
        bytes.extend_from_slice(&self.block);
        Ok(Ok(bytes))
    }
}
