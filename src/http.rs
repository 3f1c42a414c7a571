//! Requests in, responses out: one file per resource.
//!
//! A handler validates, runs one transaction and answers. Whatever takes longer is a job for a worker; whatever needs
//! a tensor is the engine's.

mod binding;
mod body;
mod capabilities;
mod concepts;
mod content;
mod deltas;
mod error;
mod events;
mod extract;
mod health;
mod images;
mod jobs;
mod manifests;
mod merge_check;
mod merge_options;
mod merges;
mod photos;
mod previews;
mod router;
mod samples;
mod trainings;
mod uploads;

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::delta_store::DeltaStore;
use crate::domain::model_info::ModelInfo;
use crate::storage::Storage;

pub use router::{openapi, router};

/// Jobs of one kind that may wait, unless told otherwise.
pub const DEFAULT_QUEUE_LIMIT: usize = 1000;

/// What every handler needs.
#[derive(Clone, Debug)]
pub struct App {
    pub db: PgPool,
    pub storage: Storage,
    pub model: Arc<ModelInfo>,
    pub merge_desk: DeltaStore,
    /// Cancelled when the process is asked to end: event streams close, and `/readyz` says so.
    pub shutdown: CancellationToken,
    /// Jobs of one kind that may wait; who comes then is asked to come again.
    pub queue_limit: usize,
    /// Photos decoded at once: as many as there are cores, so that uploads cannot take all the memory.
    decoders: Arc<Semaphore>,
}

impl App {
    pub fn new(
        db: PgPool,
        storage: Storage,
        model: Arc<ModelInfo>,
        merge_desk: DeltaStore,
        shutdown: CancellationToken,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let decoders = Arc::new(Semaphore::new(cores));
        let queue_limit = DEFAULT_QUEUE_LIMIT;
        Self { db, storage, model, merge_desk, shutdown, queue_limit, decoders }
    }
}
