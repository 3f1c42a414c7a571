//! Memory for uploads: so much for files that arrive, and so many that are decoded and stored at once.
//!
//! A request that finds no room waits for a moment and is then refused, so that a slow object store or many slow clients
//! cannot fill the memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{App, Refusal};

/// The unit in which memory for files is handed out.
const PIECE: usize = 1 << 20;

/// How much memory uploads may take.
#[derive(Clone, Copy, Debug)]
pub struct UploadLimits {
    /// Of all files together that have not been decoded yet, in bytes.
    pub received_bytes: usize,
    /// Images that are decoded, encoded and stored at once. Each takes up to about 350 MB.
    pub at_once: usize,
    /// How long a request waits for its turn.
    pub patience: Duration,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            received_bytes: 256 << 20,
            at_once: std::thread::available_parallelism().map_or(1, usize::from),
            patience: Duration::from_secs(10),
        }
    }
}

/// The memory that is left.
#[derive(Clone, Debug)]
pub(super) struct UploadMemory {
    received: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
    patience: Duration,
}

/// A file as far as it has arrived, and its share of the memory.
#[derive(Debug)]
pub struct ReceivedFile {
    bytes: Vec<u8>,
    room: Option<OwnedSemaphorePermit>,
    memory: UploadMemory,
}

impl UploadMemory {
    pub(super) fn new(limits: UploadLimits) -> Self {
        Self {
            received: Arc::new(Semaphore::new(limits.received_bytes.div_ceil(PIECE))),
            decoders: Arc::new(Semaphore::new(limits.at_once)),
            patience: limits.patience,
        }
    }

    /// The permit to have one image in memory as pixels or as PNG. Hold it until the image is stored.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`]
    pub(super) async fn decoder(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.wait_for(&self.decoders, 1).await
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
        ReceivedFile { bytes: Vec::new(), room: None, memory: self.uploads.clone() }
    }

    /// Sets how much memory uploads may take.
    pub fn with_upload_limits(self, limits: UploadLimits) -> Self {
        Self { uploads: UploadMemory::new(limits), ..self }
    }
}

impl ReceivedFile {
    /// Appends what has arrived, once there is room for it.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`]
    pub async fn push(&mut self, chunk: &[u8]) -> Result<(), Refusal> {
        let size_bytes = self.bytes.len() + chunk.len();
        let held = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = size_bytes.div_ceil(PIECE).saturating_sub(held);
        if missing > 0 {
            let more = self.memory.wait_for(&self.memory.received, missing).await?;
            match &mut self.room {
                Some(room) => room.merge(more),
                None => self.room = Some(more),
            }
            self.bytes.reserve_exact((held + missing) * PIECE - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}
