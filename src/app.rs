//! What the service can do: one file per noun, between HTTP and the catalog.
//!
//! A verb takes a [`Caller`] and domain values, decides, and returns a domain value or a [`Refusal`]. What it writes, it
//! writes in one transaction, so that a refused request changes nothing. Whatever takes longer than a request is a job
//! for a worker.

pub mod access;
mod announcer;
pub mod api_key;
pub mod audit;
mod binding;
mod caller;
pub mod client_token;
mod composition;
pub mod compression;
pub mod concept;
pub mod concept_photo;
pub mod delta;
pub mod download;
pub mod dry_run;
pub mod evaluation;
mod health;
pub mod idempotency;
pub mod image;
pub mod image_set;
mod init_image;
pub mod job;
mod label;
mod manifest;
pub mod merge;
pub mod photo;
mod precondition;
pub mod preference;
pub mod project;
mod promotion;
pub mod queue;
mod quota;
mod refusal;
pub mod regularization;
pub mod removal;
pub mod sample;
mod tidying;
pub mod training;
pub mod upload;
pub mod upload_memory;
mod warnings;
mod watch;
pub mod webhook;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::delta_store::DeltaStore;
use crate::domain::evaluator_info::EvaluatorInfo;
use crate::domain::job::DEFAULT_QUEUE_LIMIT;
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::MAX_SEED;
use crate::domain::webhook::url::Receivers;
use crate::evaluator::Evaluator;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::storage::Storage;
use crate::text_index::TextIndexes;
use crate::thumbnails::Thumbnails;

use self::access::Access;
use self::announcer::Announcer;
use self::health::Health;
use self::job::Readings;
use self::upload_memory::{UploadLimits, UploadMemory};
use self::watch::Watches;

pub use caller::Caller;
pub use health::Readiness;
pub use init_image::DEFAULT_NOISE_STRENGTH;
pub use precondition::Precondition;
pub use refusal::{Dependency, Refusal};

/// The service: what every verb works with. A clone is a handle to the same service.
#[derive(Clone, Debug)]
pub struct App(Arc<Parts>);

/// What the verbs work with. Each of the layers around a request has the application, so that it is cloned often.
#[derive(Clone, Debug)]
pub struct Parts {
    db: PgPool,
    storage: Storage,
    model: Arc<ModelInfo>,
    deltas: DeltaStore,
    /// Evaluates texts, and says what evaluations will take.
    evaluator: Option<Evaluator>,
    /// Finds captions that are similar to a prompt; `None` without an evaluator.
    text_indexes: Option<TextIndexes>,
    shutdown: Shutdown,
    access: Arc<Access>,
    health: Arc<Health>,
    metrics: Metrics,
    /// The limit of queued jobs of one kind; further ones are refused.
    queue_limit: usize,
    /// Above so many queued jobs of one kind, the process says that it is not ready.
    ready_queue_depth: Option<usize>,
    announcer: Announcer,
    watches: Watches,
    readings: Readings,
    /// Which receivers webhooks may be sent to.
    receivers: Receivers,
    /// Memory for uploads.
    uploads: UploadMemory,
    /// Permits to solve a merge or to compute whole matrices for a request: as many as there are cores.
    computations: Arc<Semaphore>,
    /// The permit to unpack an archive.
    archives: Arc<Semaphore>,
    thumbnails: Thumbnails,
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    pub fn new(
        db: PgPool,
        storage: Storage,
        model: Arc<ModelInfo>,
        deltas: DeltaStore,
        shutdown: impl Into<Shutdown>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let computations = Arc::new(Semaphore::new(cores));
        let queue_limit = DEFAULT_QUEUE_LIMIT;
        let archives = Arc::new(Semaphore::new(1));
        let announcer = Announcer::new(db.clone());
        let watches = Watches::new(db.clone());
        let metrics = Metrics::new(db.clone());
        Self(Arc::new(Parts {
            db,
            storage,
            model,
            deltas,
            evaluator: None,
            text_indexes: None,
            shutdown: shutdown.into(),
            access: Arc::new(Access::open()),
            health: Arc::default(),
            metrics,
            queue_limit,
            ready_queue_depth: None,
            announcer,
            watches,
            readings: Readings::default(),
            receivers: Receivers::Public,
            uploads: UploadMemory::new(UploadLimits::default()),
            computations,
            archives,
            thumbnails: Thumbnails::default(),
        }))
    }

    /// The same with something changed.
    fn with(self, change: impl FnOnce(&mut Parts)) -> Self {
        let mut parts = Arc::unwrap_or_clone(self.0);
        change(&mut parts);
        Self(Arc::new(parts))
    }

    /// Sets the limit of queued jobs of one kind.
    pub fn with_queue_limit(self, queue_limit: usize) -> Self {
        self.with(|parts| parts.queue_limit = queue_limit)
    }

    /// Sets the number of queued jobs of one kind above which the process says that it is not ready.
    pub fn with_ready_queue_depth(self, ready_queue_depth: Option<usize>) -> Self {
        self.with(|parts| parts.ready_queue_depth = ready_queue_depth)
    }

    /// Sets the evaluator.
    pub fn with_evaluator(self, evaluator: Option<Evaluator>) -> Self {
        let text_indexes = evaluator.clone().map(|evaluator| {
            let shutdown = self.shutdown.draining_token().clone();
            TextIndexes::new(self.storage.clone(), evaluator, shutdown)
        });
        self.with(|parts| {
            parts.evaluator = evaluator;
            parts.text_indexes = text_indexes;
        })
    }

    /// The evaluator, if there is one.
    pub fn evaluator(&self) -> Option<&EvaluatorInfo> {
        self.evaluator.as_ref().map(Evaluator::info)
    }

    /// The base model that is served, with its limits and defaults.
    pub fn model(&self) -> &ModelInfo {
        &self.model
    }

    /// Metrics of this process and of the queue, in the text format of Prometheus.
    pub async fn metrics(&self) -> String {
        self.metrics.render().await
    }

    /// The phases in which the process ends.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }
}

/// The longest that a request waits for others to finish their computations.
const COMPUTE_WITHIN: Duration = Duration::from_secs(10);

impl App {
    /// The permit to compute something large for a request.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`]
    async fn computation(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let permit = self.computations.clone().acquire_owned();
        match tokio::time::timeout(COMPUTE_WITHIN, permit).await {
            Ok(permit) => permit.map_err(Refusal::internal),
            Err(_) => Err(Refusal::Overloaded),
        }
    }
}

/// Chooses a seed for a request that has none, small enough that every JSON client can represent it.
fn random_seed() -> u64 {
    // The random half of a UUID.
    uuid::Uuid::new_v4().as_u64_pair().1 & MAX_SEED
}
