//! A job in hand: its lease, its progress, and the word that it shall stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use image::RgbImage;

use super::error::JobError;
use super::runner::Worker;
use crate::db;
use crate::domain::id::JobId;
use crate::domain::job::{Metric, Phase, Preview, PreviewStep, Progress};
use crate::engine::Flow;
use crate::image_file;

/// How often progress is written, the lease renewed and a wish to cancel noticed.
const BEAT: Duration = Duration::from_millis(500);
/// Weight of a new loss in the smoothed one: about the mean of the last twenty.
const SMOOTHING: f64 = 0.1;

/// What a job's code works with.
#[derive(Clone)]
pub(crate) struct JobContext {
    pub(crate) worker: Worker,
    pub(crate) job_id: JobId,
    pub(crate) fence: i64,
    live: Arc<Live>,
}

/// What the device's thread tells and is told while it works.
#[derive(Default)]
struct Live {
    stop: AtomicBool,
    lease_lost: AtomicBool,
    canceled: AtomicBool,
    first_step_at: OnceLock<DateTime<Utc>>,
    news: Mutex<News>,
}

#[derive(Default)]
struct News {
    phase: Option<Phase>,
    phase_began: Option<Instant>,
    progress: Option<Progress>,
    metrics: Vec<Metric>,
    /// The newest of each picture, by its index, and after which step; what is overtaken before it is written never is.
    previews: BTreeMap<usize, (usize, RgbImage)>,
    /// Those that are written, by index, and after which step: clients are told of nothing else.
    written_previews: BTreeMap<usize, usize>,
    /// Something has changed since it was last written.
    fresh: bool,
}

/// A step that was taken, for the loss curve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepLoss {
    pub(crate) loss: f64,
    pub(crate) grad_norm: f64,
}

impl JobContext {
    pub(crate) fn new(worker: Worker, job_id: JobId, fence: i64) -> Self {
        Self { worker, job_id, fence, live: Arc::default() }
    }

    /// Enters a phase.
    pub(crate) fn enter(&self, phase: Phase) {
        let mut news = self.news();
        *news = News {
            phase: Some(phase),
            phase_began: Some(Instant::now()),
            progress: None,
            metrics: std::mem::take(&mut news.metrics),
            previews: std::mem::take(&mut news.previews),
            written_previews: std::mem::take(&mut news.written_previews),
            fresh: true,
        };
    }

    /// Notes a step of the phase, entering it first if need be, and says whether to go on.
    pub(crate) fn step(
        &self,
        phase: Phase,
        step: usize,
        total_steps: usize,
        loss: Option<StepLoss>,
    ) -> Flow {
        if self.news().phase != Some(phase) {
            self.enter(phase);
        }
        let mut news = self.news();
        let elapsed = news.phase_began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let steps_per_second = (step > 0 && elapsed > 0.0).then(|| step as f64 / elapsed);
        let before = news.progress.as_ref().and_then(|progress| progress.loss);
        news.progress = Some(Progress {
            step,
            total_steps,
            loss: loss.map(|now| {
                before.map_or(now.loss, |before| before + SMOOTHING * (now.loss - before))
            }),
            steps_per_second,
            eta_seconds: steps_per_second
                .map(|rate| total_steps.saturating_sub(step) as f64 / rate),
            previews: Vec::new(), // those that are written by then come in when this is
        });
        if let Some(loss) = loss {
            news.metrics.push(Metric {
                step: i32::try_from(step).unwrap_or(i32::MAX),
                loss: loss.loss,
                grad_norm: loss.grad_norm.is_finite().then_some(loss.grad_norm),
            });
        }
        news.fresh = true;
        if self.is_stopping() { Flow::Stop } else { Flow::Continue }
    }

    /// Shows what a picture looks like after so many of its steps.
    pub(crate) fn show(&self, index: usize, step: usize, picture: RgbImage) {
        let mut news = self.news();
        news.previews.insert(index, (step, picture));
        news.fresh = true;
    }

    /// Notes when the first denoising step began; later calls change nothing.
    pub(crate) fn begin_first_step(&self) {
        self.live.first_step_at.get_or_init(Utc::now);
    }

    pub(crate) fn first_step_at(&self) -> Option<DateTime<Utc>> {
        self.live.first_step_at.get().copied()
    }

    /// Asks the job to stop at its next step.
    pub(crate) fn stop(&self) {
        self.live.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it has been asked to.
    pub(crate) fn is_stopping(&self) -> bool {
        self.live.stop.load(Ordering::Relaxed)
    }

    /// Whether a client asked for that.
    pub(crate) fn is_canceled(&self) -> bool {
        self.live.canceled.load(Ordering::Relaxed)
    }

    /// An error if the job has been asked to stop: for the places between two pieces of work.
    pub(crate) fn check(&self) -> Result<(), JobError> {
        if self.live.lease_lost.load(Ordering::Relaxed) {
            return Err(JobError::LeaseLost);
        }
        if self.is_stopping() { Err(JobError::Stopped) } else { Ok(()) }
    }

    /// Refuses a job that was meant for another base model.
    pub(crate) fn check_base(&self, digest: &str) -> Result<(), JobError> {
        let actual = self.worker.base_digest();
        if digest == actual {
            return Ok(());
        }
        Err(JobError::BaseModelMismatch { wanted: digest.to_owned(), actual: actual.to_owned() })
    }

    /// Writes progress and renews the lease until dropped or the lease is lost.
    ///
    /// While the database is away the job goes on: if the lease runs out in the meantime the next beat says so.
    pub(crate) async fn beat(&self) {
        // The first beat comes after a while: what ends before it, as many samples do, costs the catalog nothing more.
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + BEAT, BEAT);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.write_news().await {
                Ok(Some(false)) => {}
                Ok(Some(true)) => {
                    self.live.canceled.store(true, Ordering::Relaxed);
                    self.stop();
                }
                Ok(None) => {
                    tracing::warn!(job.id = %self.job_id, "lost the lease");
                    self.live.lease_lost.store(true, Ordering::Relaxed);
                    self.stop();
                    return;
                }
                Err(error) => tracing::warn!(job.id = %self.job_id, %error, "progress not written"),
            }
        }
    }

    /// Writes what is new, and returns whether the job shall stop, or `None` if it is another worker's.
    pub(crate) async fn write_news(&self) -> sqlx::Result<Option<bool>> {
        let (phase, mut progress, metrics, previews, fresh) = {
            let mut news = self.news();
            let fresh = std::mem::take(&mut news.fresh);
            let metrics = std::mem::take(&mut news.metrics);
            (news.phase, news.progress.clone(), metrics, std::mem::take(&mut news.previews), fresh)
        };
        let (db, lease) = (&self.worker.db, self.worker.config.lease);
        if !metrics.is_empty() {
            db::metric::record(db, self.job_id, self.fence, &metrics).await?;
        }
        // Before the progress that tells of them.
        if !previews.is_empty() {
            let previews = tokio::task::spawn_blocking(|| encoded(previews)).await;
            let previews =
                previews.map_err(|panic| sqlx::Error::Io(std::io::Error::other(panic)))?;
            db::preview::record(db, self.job_id, self.fence, &previews).await?;
            let steps = previews.iter().map(|one| (one.index as usize, one.step as usize));
            self.news().written_previews.extend(steps);
        }
        if let Some(progress) = &mut progress {
            let written = &self.news().written_previews;
            let told = written.iter().map(|(&index, &step)| PreviewStep { index, step });
            progress.previews = told.collect();
        }
        match phase {
            Some(phase) if fresh => {
                db::job::report(db, self.job_id, self.fence, phase, progress.as_ref(), lease).await
            }
            Some(_) | None => db::job::renew_lease(db, self.job_id, self.fence, lease).await,
        }
    }

    fn news(&self) -> std::sync::MutexGuard<'_, News> {
        self.live.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Previews as PNGs; one that cannot be encoded is left out.
fn encoded(previews: BTreeMap<usize, (usize, RgbImage)>) -> Vec<Preview> {
    let encode = |(index, (step, picture)): (usize, (usize, RgbImage))| {
        let png = image_file::encode_plain(&picture).ok()?;
        Some(Preview { index: index as i32, step: step as i32, png })
    };
    previews.into_iter().filter_map(encode).collect()
}
