//! Checkpoints of a running training: taken on the device's thread, written beside its next steps.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::mpsc;

use super::cadence::Cadence;
use crate::db;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::digest::Digest;
use crate::engine::{EngineError, TrainerState, VERSION};
use crate::storage::StorageKey;
use crate::worker::checkpoints::delete;
use crate::worker::error::JobError;
use crate::worker::job::Job;

/// Takes states on the device's thread.
pub(super) struct Taker {
    cadence: SharedCadence,
    states: mpsc::UnboundedSender<Taken>,
}

/// Writes them. It lives no longer than the job's own code, so a job that is dropped writes nothing more.
pub(super) struct Writer<'a> {
    job: &'a Job,
    input_digest: Digest,
    cadence: SharedCadence,
    states: mpsc::UnboundedReceiver<Taken>,
}

#[derive(Clone)]
struct SharedCadence(Arc<Mutex<Cadence>>);

struct Taken {
    state: TrainerState,
    /// How long the device waited for it.
    waited: Duration,
}

/// The two ends of a training's checkpoints.
///
/// - `step`: where the training begins
pub(super) fn channel(job: &Job, input_digest: Digest, step: usize) -> (Taker, Writer<'_>) {
    let every = job.context.config.checkpoint_every;
    let cadence = Cadence::new(every, step, Instant::now());
    let cadence = SharedCadence(Arc::new(Mutex::new(cadence)));
    let (sender, states) = mpsc::unbounded_channel();
    let taker = Taker { cadence: cadence.clone(), states: sender };
    (taker, Writer { job, input_digest, cadence, states })
}

impl SharedCadence {
    fn lock(&self) -> MutexGuard<'_, Cadence> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taker {
    /// Takes the state after `step` out, if that is due.
    ///
    /// # Errors
    /// [`EngineError::Tensor`] if the device fails.
    pub(super) fn after_step(
        &mut self,
        step: usize,
        state: &dyn Fn() -> TrainerState,
    ) -> Result<(), EngineError> {
        let now = Instant::now();
        if !self.cadence.lock().is_due(step, now) {
            return Ok(());
        }
        self.cadence.lock().begin(step, now);
        let state = state().on_host()?;
        // If the writer is gone, so is the job.
        let _ = self.states.send(Taken { state, waited: now.elapsed() });
        Ok(())
    }
}

impl Writer<'_> {
    /// Writes what is taken until the training ends. What cannot be written is left out: the next one will do.
    pub(super) async fn run(&mut self) {
        while let Some(Taken { state, waited }) = self.states.recv().await {
            let step = state.step;
            let cost = match self.write(state).await {
                Ok(serializing) => waited + serializing,
                Err(error) => {
                    tracing::warn!(step, %error, "a checkpoint was not written");
                    waited
                }
            };
            self.cadence.lock().end(cost);
        }
    }

    /// Writes the state that a training was stopped in, before another worker takes it. If it cannot be written for some
    /// seconds, the training will go on from the checkpoint before.
    pub(super) async fn write_last(&self, state: TrainerState) {
        let write = || async { self.write(state.clone()).await };
        let written = self.job.patiently_before_the_end("writing the last checkpoint", write).await;
        if let Err(error) = written {
            let step = state.step;
            tracing::warn!(step, %error, "the last checkpoint was not written");
        }
    }

    /// Writes a state and records it; returns how long a core was busy with it.
    async fn write(&self, state: TrainerState) -> Result<Duration, JobError> {
        let Job { context, lease, .. } = self.job;
        let step = state.step;
        let serialize = move || {
            let began = Instant::now();
            let file = state.to_safetensors()?;
            let sha256 = Digest::of(&file);
            Ok::<_, EngineError>((file, sha256, began.elapsed()))
        };
        let serialized = tokio::task::spawn_blocking(serialize).await;
        let (file, sha256, cost) = serialized.map_err(|_| JobError::EnginePanicked)??;
        // The loss curve up to here, so that it has no hole if the training goes on from here.
        lease.report().await?.ok_or(JobError::LeaseLost)?;
        let checkpoint = Checkpoint {
            step: i32::try_from(step).unwrap_or(i32::MAX),
            storage_key: StorageKey::checkpoint(lease.job_id, lease.fence, step),
            size_bytes: file.len() as i64,
            sha256,
            input_digest: self.input_digest.clone(),
            engine_version: VERSION.to_owned(),
            created_at: Utc::now(),
        };
        context.storage.write(&checkpoint.storage_key, file).await?;
        let recorded =
            db::checkpoint::record(&context.db, lease.job_id, lease.fence, &checkpoint).await?;
        let Some(forgotten) = recorded else {
            delete(context, &checkpoint.storage_key).await;
            return Err(JobError::LeaseLost);
        };
        for key in forgotten {
            delete(context, &key).await;
        }
        tracing::debug!(step, "wrote a checkpoint");
        Ok(cost)
    }
}
