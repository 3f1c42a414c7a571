//! Claims jobs, and brings each to its end: trainings and merges one at a time, samples by the batch.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::deltas::DeltaCache;
use super::device::{Gpu, Sharing};
use super::engine::LoadedModel;
use super::error::{JobError, worker_lost};
use super::job::JobContext;
use super::kinds::{merge, sample, training};
use super::packs::PackCache;
use super::permits::{Seat, Slots};
use crate::class_images::ClassImageFolder;
use crate::config::WorkerSettings;
use crate::db;
use crate::db::job::Capacity;
use crate::domain::job::{JobKind, LeasedJob, Task};
use crate::storage::Storage;

/// How a worker deals with the queue.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Says in the catalog who has a job.
    pub name: String,
    /// How long a job stays with a worker that has stopped renewing.
    pub lease: Duration,
    /// How often the queue is looked at if no word of new jobs comes.
    pub poll: Duration,
    /// Rows of one call of the UNet, guidance rows counted; what the device holds if `None`.
    pub row_budget: Option<usize>,
    /// Fraction of the device's time that a training has while samples wait, below 1.
    pub training_share: f64,
    /// Host memory for deltas that were used last.
    pub delta_cache_bytes: usize,
    /// Device memory for keys and values of prompts that were used last.
    pub conditioning_cache_bytes: usize,
    /// What a training step may take beside the weights; what the device has free if `None`.
    pub memory_budget: Option<u64>,
}

impl From<&WorkerSettings> for WorkerConfig {
    fn from(settings: &WorkerSettings) -> Self {
        Self {
            name: format!("worker-{}", std::process::id()),
            lease: Duration::from_secs(30),
            poll: Duration::from_secs(1),
            row_budget: settings.row_budget.map(|rows| rows as usize),
            training_share: settings.training_share,
            delta_cache_bytes: settings.delta_cache_mib << 20,
            conditioning_cache_bytes: settings.conditioning_cache_mib << 20,
            memory_budget: settings.memory_budget.map(|size| size.0),
        }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self::from(&WorkerSettings::default())
    }
}

/// How often jobs of dead workers are looked for.
const RECOVERY: Duration = Duration::from_secs(5);

/// A worker with one device.
#[derive(Clone)]
pub struct Worker {
    pub(crate) db: PgPool,
    pub(crate) storage: Storage,
    pub(crate) gpu: Gpu,
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) class_images: Arc<ClassImageFolder>,
    pub(crate) deltas: DeltaCache,
    pub(crate) packs: PackCache,
    slots: Arc<Slots>,
    base_digest: Arc<str>,
    captions_digest: Option<Arc<str>>,
    resolution: usize,
}

impl Worker {
    /// Takes over a loaded model; [`Worker::run`] does the rest.
    ///
    /// # Errors
    /// If the device's thread cannot be started.
    pub fn new(
        db: PgPool,
        storage: Storage,
        model: LoadedModel,
        config: WorkerConfig,
    ) -> std::io::Result<Self> {
        let row_budget = config.row_budget.unwrap_or_else(|| model.engine.row_budget()).max(1);
        tracing::info!(row_budget, training_share = config.training_share, "the worker begins");
        let sharing = Sharing {
            row_budget,
            training_share: config.training_share,
            conditioning_bytes: config.conditioning_cache_bytes,
        };
        Ok(Self {
            deltas: DeltaCache::new(config.delta_cache_bytes),
            db,
            storage,
            config: Arc::new(config),
            class_images: Arc::new(model.class_images),
            packs: PackCache::default(),
            slots: Slots::new(row_budget),
            base_digest: model.card.digest.as_str().into(),
            captions_digest: model.merge_kit.captions_digest.as_deref().map(Arc::from),
            resolution: model.card.native_size,
            gpu: Gpu::start(model.engine, sharing)?,
        })
    }

    /// The deltas that it keeps on the host.
    pub fn deltas(&self) -> &DeltaCache {
        &self.deltas
    }

    pub(crate) fn base_digest(&self) -> &str {
        &self.base_digest
    }

    /// Of the captions that merges keep unless a request gives others; `None` if there are none.
    pub(crate) fn captions_digest(&self) -> Option<&str> {
        self.captions_digest.as_deref()
    }

    /// The side that the base model was trained on, in pixels.
    pub(crate) fn resolution(&self) -> usize {
        self.resolution
    }

    /// Works until `shutdown` is cancelled; jobs in hand stop at their next step and go back into the queue.
    pub async fn run(self, shutdown: CancellationToken) {
        let wake = Wakes::default();
        tokio::join!(
            self.lane(JobKind::Training, &wake, &shutdown),
            self.lane(JobKind::Merge, &wake, &shutdown),
            self.sample_lane(&wake, &shutdown),
            listen(&self.db, &wake, &shutdown),
            self.recover(&wake, &shutdown),
            self.catch_up(&shutdown),
        );
    }

    /// Takes job after job of a kind.
    async fn lane(&self, kind: JobKind, wake: &Wakes, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            let woken = wake.of(kind).notified(); // from here on no word is missed
            if let Some(job) = self.lease(kind, 1).await.pop() {
                self.execute(job, None, shutdown).await;
                continue;
            }
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(self.config.poll) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Takes samples as long as the batch has rows for them.
    async fn sample_lane(&self, wake: &Wakes, shutdown: &CancellationToken) {
        let mut running = JoinSet::new();
        while !shutdown.is_cancelled() {
            let woken = wake.of(JobKind::Sample).notified();
            let room = self.slots.room();
            let leased =
                if room > 0 { self.lease(JobKind::Sample, room).await } else { Vec::new() };
            let found = !leased.is_empty();
            for job in leased {
                let seat = self.slots.take(job.rows);
                let (worker, shutdown) = (self.clone(), shutdown.clone());
                running.spawn(async move { worker.execute(job, Some(seat), &shutdown).await });
            }
            while running.try_join_next().is_some() {}
            if found {
                continue;
            }
            tokio::select! {
                () = woken, if room > 0 => {}
                () = tokio::time::sleep(self.config.poll), if room > 0 => {}
                () = self.slots.freed() => {}
                () = shutdown.cancelled() => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    /// Leases jobs of a kind until they fill so many rows.
    async fn lease(&self, kind: JobKind, rows: usize) -> Vec<LeasedJob> {
        let capacity = Capacity {
            worker: &self.config.name,
            kinds: &[kind],
            base_digest: &self.base_digest,
            rows,
            lease: self.config.lease,
        };
        db::job::lease_next(&self.db, capacity).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the queue cannot be read");
            Vec::new()
        })
    }

    /// Brings one job to an end, or back into the queue.
    ///
    /// - `seat`: a sample's rows of the batch
    async fn execute(&self, leased: LeasedJob, seat: Option<Seat>, shutdown: &CancellationToken) {
        let job = JobContext::new(self.clone(), leased.job_id, leased.fence);
        tracing::info!(job.id = %job.job_id, kind = leased.task.kind().as_str(), attempt = leased.attempts, "began");
        let work = async {
            match leased.task {
                Task::Training(task) => training::run(&job, task).await,
                Task::Merge(task) => merge::run(&job, task).await,
                Task::Sample(task) => {
                    let seat = seat.unwrap_or_else(|| self.slots.take(0));
                    sample::run(&job, task, seat).await
                }
            }
        };
        // The work is not dropped when the others end: it stops by itself at its next step.
        let stop_on_shutdown = async {
            shutdown.cancelled().await;
            job.stop();
            std::future::pending::<()>().await;
        };
        let beat = async {
            job.beat().await;
            std::future::pending::<()>().await;
        };
        let result = tokio::select! {
            result = work => result,
            () = stop_on_shutdown => Err(JobError::Stopped),
            () = beat => Err(JobError::LeaseLost),
        };
        if let Err(error) = self.conclude(&job, leased.attempts, result).await {
            // The lease runs out, and the job is taken up again.
            tracing::error!(job.id = %job.job_id, %error, "the job's end was not written");
        }
    }

    /// Writes how a job ended, where its own code has not done so.
    async fn conclude(
        &self,
        job: &JobContext,
        attempts: i32,
        result: Result<(), JobError>,
    ) -> sqlx::Result<()> {
        let (db, job_id, fence) = (&self.db, job.job_id, job.fence);
        let error = match result {
            Ok(()) => {
                tracing::info!(job.id = %job_id, "succeeded");
                return Ok(());
            }
            Err(error) => error,
        };
        match &error {
            JobError::LeaseLost => {
                tracing::warn!(job.id = %job_id, "dropped: another worker has it")
            }
            JobError::Stopped => {
                let canceled = job.is_canceled();
                // A wish to cancel that comes this late keeps the job out of the queue as well.
                if canceled || !db::job::hand_back(db, job_id, fence).await? {
                    db::job::stop(db, job_id, fence).await?;
                }
                tracing::info!(job.id = %job_id, canceled, "stopped");
            }
            _ => {
                let sources = with_sources(&error);
                let delay = Duration::from_secs(5 << attempts.clamp(0, 6));
                if error.retryable() && db::job::retry(db, job_id, fence, delay).await? {
                    tracing::warn!(job.id = %job_id, error = sources, "failed, will be tried again");
                } else {
                    tracing::error!(job.id = %job_id, error = sources, "failed");
                    db::job::fail(db, job_id, fence, &error.failure()).await?;
                }
            }
        }
        Ok(())
    }

    /// Takes back the jobs of workers that died.
    async fn recover(&self, wake: &Wakes, shutdown: &CancellationToken) {
        loop {
            match db::job::recover_expired(&self.db, &worker_lost()).await {
                Ok(0) => {}
                Ok(jobs) => {
                    tracing::warn!(jobs, "took back jobs of workers that stopped answering");
                    wake.all();
                }
                Err(error) => tracing::warn!(%error, "jobs of dead workers cannot be looked for"),
            }
            tokio::select! {
                () = tokio::time::sleep(RECOVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// Wakes the lanes, each by itself: while they look, the others' queries are in the way of the one that finds a job.
#[derive(Default)]
struct Wakes {
    training: Notify,
    merge: Notify,
    sample: Notify,
}

impl Wakes {
    fn of(&self, kind: JobKind) -> &Notify {
        match kind {
            JobKind::Training => &self.training,
            JobKind::Merge => &self.merge,
            JobKind::Sample => &self.sample,
        }
    }

    fn all(&self) {
        JobKind::ALL.into_iter().for_each(|kind| self.of(kind).notify_waiters());
    }
}

/// Wakes the lane of a kind when such a job is queued; without a connection they still poll.
async fn listen(db: &PgPool, wake: &Wakes, shutdown: &CancellationToken) {
    while !shutdown.is_cancelled() {
        let heard = async {
            let mut listener = PgListener::connect_with(db).await?;
            listener.listen(db::job::QUEUED_CHANNEL).await?;
            loop {
                let word = listener.recv().await?;
                match JobKind::ALL.into_iter().find(|kind| kind.as_str() == word.payload()) {
                    Some(kind) => wake.of(kind).notify_waiters(),
                    None => wake.all(), // a service of another version
                }
            }
        };
        let broken: sqlx::Result<()> = tokio::select! {
            result = heard => result,
            () = shutdown.cancelled() => return,
        };
        if let Err(error) = broken {
            tracing::warn!(%error, "cannot hear of new jobs, polling instead");
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(5)) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
