//! What the service can do: one verb per request, between HTTP and the catalog.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::domain::model_info::ModelInfo;
use crate::merge_desk::MergeDesk;
use crate::storage::Storage;

/// Jobs of one kind that may wait, unless told otherwise.
pub const DEFAULT_QUEUE_LIMIT: usize = 1000;

/// What every handler needs.
#[derive(Clone, Debug)]
pub struct App {
    pub db: PgPool,
    pub storage: Storage,
    pub model: Arc<ModelInfo>,
    pub merge_desk: MergeDesk,
    /// Cancelled when the process is asked to end: event streams close, and `/readyz` says so.
    pub shutdown: CancellationToken,
    /// Jobs of one kind that may wait; who comes then is asked to come again.
    pub queue_limit: usize,
    /// Photos decoded at once: as many as there are cores, so that uploads cannot take all the memory.
    pub(crate) decoders: Arc<Semaphore>,
}

impl App {
    pub fn new(
        db: PgPool,
        storage: Storage,
        model: Arc<ModelInfo>,
        merge_desk: MergeDesk,
        shutdown: CancellationToken,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let decoders = Arc::new(Semaphore::new(cores));
        let queue_limit = DEFAULT_QUEUE_LIMIT;
        Self { db, storage, model, merge_desk, shutdown, queue_limit, decoders }
    }
}
