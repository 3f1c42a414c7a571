//! Leases jobs and runs each to its end.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::join_all;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::backfill;
use super::checkpoints;
use super::config::WorkerConfig;
use super::context::Context;
use super::engine::LoadedModel;
use super::error::JobError;
use super::heartbeat::Heartbeat;
use super::job::{Admission, Job};
use super::kinds;
use super::lease::Lease;
use super::permits::Permits;
use super::progress::StopReason;
use super::wakeups::Wakeups;
use crate::counters::{QUEUE, WORK};
use crate::db;
use crate::db::job::Capacity;
use crate::delta_store::DeltaStore;
use crate::domain::id::JobId;
use crate::domain::job::attempt::{backoff, random};
use crate::domain::job::{Failure, JobKind, JobState, LeasedJob, published_id};
use crate::reaper::Reaper;
use crate::request_context::trace_id;
use crate::shutdown::Shutdown;
use crate::storage::Storage;
use crate::telemetry::join_trace;

/// A worker with one device.
#[derive(Clone)]
pub struct Worker {
    context: Context,
    shutdown: Shutdown,
}

impl Worker {
    /// Takes over a loaded model; [`Worker::run`] does the rest.
    ///
    /// - `deltas`: the store of this process, on the same `storage`
    ///
    /// # Errors
    /// If the device's thread cannot be started.
    pub fn new(
        db: PgPool,
        storage: Storage,
        deltas: DeltaStore,
        model: LoadedModel,
        config: WorkerConfig,
    ) -> std::io::Result<Self> {
        let context = Context::new(db, storage, deltas, model, config)?;
        Ok(Self { context, shutdown: Shutdown::default() })
    }

    /// Works until the process drains. Then nothing is claimed any more. Jobs that have the device to themselves stop at
    /// their next step, samples at their next step once the process closes; all that stop return to the queue.
    ///
    /// # Panics
    /// If the device's thread has ended.
    pub async fn run(mut self, shutdown: impl Into<Shutdown>) {
        self.shutdown = shutdown.into();
        let device_ended = self.context.device.ended();
        let shutdown = self.shutdown.draining_token().clone();
        let wakeups = Wakeups::default();
        let reaper = Reaper::new(self.context.db.clone(), self.context.config.lease);
        let lanes = JobKind::ALL.into_iter().map(|kind| self.lane(kind, &wakeups, &shutdown));
        let work = async {
            tokio::join!(
                join_all(lanes),
                wakeups.listen(&self.context.db, &shutdown),
                reaper.run(|| wakeups.all(), shutdown.clone()),
                backfill::run(&self.context, &shutdown),
                checkpoints::run(&self.context, &shutdown),
            );
        };
        tokio::select! {
            biased;
            () = work => {}
            // Without it every job would fail here, that others could do.
            () = device_ended.cancelled() => panic!("the device's thread ended"),
        }
    }

    async fn lane(&self, kind: JobKind, wakeups: &Wakeups, shutdown: &CancellationToken) {
        match kinds::admission(kind) {
            Admission::Exclusive => self.exclusive_lane(kind, wakeups, shutdown).await,
            Admission::ByPermits => self.permit_lane(kind, wakeups, shutdown).await,
        }
    }

    /// Takes job after job of a kind.
    async fn exclusive_lane(&self, kind: JobKind, wakeups: &Wakeups, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            let woken = wakeups.of(kind).notified(); // from here on no word is missed
            if let Some(leased) = self.lease(kind, 1).await.pop() {
                // A task of its own: whatever breaks in it must not end the claiming. It ends with the lane.
                let (worker, shutdown) = (self.clone(), shutdown.clone());
                let work = async move { worker.execute(leased, Permits::none(), &shutdown).await };
                if let Err(error) = AbortOnDropHandle::new(tokio::spawn(work)).await {
                    tracing::error!(%error, "a job broke off");
                }
                continue;
            }
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep(self.context.config.poll) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// Takes jobs of a kind as long as there are permits for them.
    async fn permit_lane(&self, kind: JobKind, wakeups: &Wakeups, shutdown: &CancellationToken) {
        let permits = &self.context.permits;
        let mut running = JoinSet::new();
        while !shutdown.is_cancelled() {
            let woken = wakeups.of(kind).notified();
            let available = permits.available();
            let leased = if available > 0 { self.lease(kind, available).await } else { Vec::new() };
            let found = !leased.is_empty();
            for leased in leased {
                let permits = permits.take(leased.batch_elements);
                let (worker, shutdown) = (self.clone(), self.shutdown.closing_token().clone());
                running.spawn(async move { worker.execute(leased, permits, &shutdown).await });
            }
            while running.try_join_next().is_some() {}
            if found {
                continue;
            }
            tokio::select! {
                () = woken, if available > 0 => {}
                () = tokio::time::sleep(self.context.config.poll), if available > 0 => {}
                () = permits.released() => {}
                () = shutdown.cancelled() => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    /// Leases jobs of a kind until they fill `batch_elements` elements of a batch.
    async fn lease(&self, kind: JobKind, batch_elements: usize) -> Vec<LeasedJob> {
        let capacity = Capacity {
            worker: &self.context.config.name,
            kinds: &[kind],
            base_digest: &self.context.model.digest,
            evaluator_digest: self.context.evaluator_digest(),
            memory_mib: self.context.memory_mib,
            batch_elements,
            lease: self.context.config.lease,
        };
        let began = Instant::now();
        let leased = db::job::lease_next(&self.context.db, capacity).await;
        WORK.claims.observe(began.elapsed());
        let leased = leased.unwrap_or_else(|error| {
            tracing::warn!(%error, "the queue cannot be read");
            Vec::new()
        });
        if kind != JobKind::Evaluation {
            let waited =
                leased.iter().filter(|job| job.attempts == 1).map(|job| waited(job.job_id));
            waited.for_each(|waited| WORK.waits.observe(waited));
        }
        leased
    }

    /// Runs one job to its end, or returns it to the queue.
    async fn execute(&self, leased: LeasedJob, permits: Permits, shutdown: &CancellationToken) {
        let id = published_id(leased.job_id, leased.task.kind());
        let request = leased.request_id.as_deref();
        let trace = leased.traceparent.as_deref().map(trace_id);
        // Whatever is logged for the job has these.
        let span = tracing::info_span!("job", id, request, trace);
        join_trace(&span, leased.traceparent.as_deref());
        self.execute_here(leased, permits, shutdown).instrument(span).await;
    }

    async fn execute_here(
        &self,
        leased: LeasedJob,
        permits: Permits,
        shutdown: &CancellationToken,
    ) {
        let lease = Lease::new(self.context.db.clone(), &leased, self.context.config.lease);
        let job_id = lease.job_id;
        tracing::info!(attempt = lease.attempts, "began");
        let heartbeat = Heartbeat::start(lease.clone(), shutdown.clone());
        let progress = lease.progress.clone();
        let job = Job { context: self.context.clone(), lease, progress };

        // The work is never dropped half-way. It stops by itself at its next step.
        let work = async {
            if let Some(faults) = &self.context.config.faults {
                faults.before_job(job_id);
            }
            kinds::run(&job, leased.task, permits).await
        };
        let work = AssertUnwindSafe(work).catch_unwind();
        let result = work.await.unwrap_or(Err(JobError::Panicked));

        drop(heartbeat);
        if let Err(error) = self.conclude(&job, result).await {
            // The lease will expire, and the job will be leased again.
            tracing::error!(%error, "the job's end was not written");
        }
    }

    /// Records how a job ended, unless its own code has done so.
    async fn conclude(&self, job: &Job, result: Result<(), JobError>) -> sqlx::Result<()> {
        let (db, job_id, fence) = (&self.context.db, job.lease.job_id, job.lease.fence);
        let error = match result {
            Ok(()) => {
                WORK.jobs_succeeded.count();
                tracing::info!("succeeded");
                return Ok(());
            }
            Err(error) => error,
        };
        let stop_reason = job.progress.stop_reason();
        match (&error, stop_reason) {
            (JobError::LeaseLost, _) | (JobError::Stopped, Some(StopReason::LeaseLost)) => {
                let leases_lost = QUEUE.leases_lost.count();
                tracing::warn!(leases_lost, "dropped: the lease is gone");
                // Otherwise the heartbeat has noticed before anything was written.
                if stop_reason != Some(StopReason::LeaseLost) {
                    note_fenced_off();
                }
            }
            (JobError::Stopped, reason) => {
                let canceled = reason == Some(StopReason::Canceled);
                // A cancellation that comes this late also keeps the job out of the queue.
                let reason = Failure::worker_stopped();
                let handed_back =
                    !canceled && db::job::hand_back(db, job_id, fence, &reason).await?;
                if !handed_back && !db::job::stop(db, job_id, fence).await? {
                    note_fenced_off();
                }
                WORK.jobs_stopped.count();
                tracing::info!(canceled, "stopped");
            }
            _ => {
                let sources = with_sources(&error);
                let failure = error.failure();
                let ended = if failure.retryable {
                    let delay = backoff(job.lease.barren_attempts, random());
                    db::job::retry(db, job_id, fence, &failure, delay).await?
                } else {
                    let failed = db::job::fail(db, job_id, fence, &failure).await?;
                    failed.then_some(JobState::Failed)
                };
                match ended {
                    Some(JobState::Failed) => {
                        WORK.jobs_failed.count();
                        tracing::error!(error = sources, "failed");
                        // An evaluation fails with the first of its samples that does.
                        db::evaluation::cancel_siblings(db, job_id).await?;
                    }
                    Some(state) => {
                        WORK.jobs_retried.count();
                        tracing::warn!(error = sources, ?state, "failed, not for good");
                    }
                    None => {
                        let leases_lost = QUEUE.leases_lost.count();
                        tracing::warn!(
                            error = sources,
                            leases_lost,
                            "failed after its lease was lost"
                        );
                        note_fenced_off();
                    }
                }
            }
        }
        Ok(())
    }
}

/// How long ago a job was made, by its id, which begins with the time.
fn waited(job_id: JobId) -> Duration {
    let made = job_id.0.get_timestamp().map_or((0, 0), |time| time.to_unix());
    let made = UNIX_EPOCH + Duration::new(made.0, made.1);
    // The clocks of two machines may differ.
    SystemTime::now().duration_since(made).unwrap_or_default()
}

/// Counts an end of a job that was written after the lease was lost, and so not at all.
fn note_fenced_off() {
    let writes_fenced_off = QUEUE.writes_fenced_off.count();
    tracing::warn!(writes_fenced_off, "its end was not written: the fence kept it out");
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
