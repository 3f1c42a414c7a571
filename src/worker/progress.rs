//! How far a job is, as the code that works on it tells, and the word that it shall stop.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use chrono::{DateTime, Utc};
use image::RgbImage;

use super::error::JobError;
use crate::domain::id::JobId;
use crate::domain::job::{self, Metric, Phase, PreviewStep};
use crate::engine::Flow;

/// Weight of a new loss in the smoothed one: about the mean of the last twenty.
const SMOOTHING: f64 = 0.1;

/// A cheap handle to a job in hand: all that the batch, the conditioner and the device know of it.
///
/// Whoever works on the job writes here; its heartbeat carries what is new to the catalog, and brings the word to stop.
#[derive(Clone)]
pub(crate) struct Progress {
    shared: Arc<Shared>,
}

struct Shared {
    job_id: JobId,
    /// A [`StopReason`], or 0.
    stop: AtomicU8,
    first_step_at: OnceLock<DateTime<Utc>>,
    news: Mutex<News>,
}

/// Why a job shall stop at its next step; a later one outweighs those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopReason {
    /// The worker ends, and another one may go on.
    WorkerEnds = 1,
    /// A client has canceled the job.
    Canceled = 2,
    /// Another worker has the job: whatever this one would write is void.
    LeaseLost = 3,
}

/// What is new about a job since the last time.
#[derive(Default)]
pub(crate) struct News {
    pub(crate) phase: Option<Phase>,
    phase_began: Option<Instant>,
    pub(crate) progress: Option<job::Progress>,
    pub(crate) metrics: Vec<Metric>,
    /// The newest of each image, by its index, and after which step; what is overtaken before it is written never is.
    pub(crate) previews: BTreeMap<usize, (usize, RgbImage)>,
    /// Those that are written, by index, and after which step: clients are told of nothing else.
    written_previews: BTreeMap<usize, usize>,
    /// Phase or progress have changed.
    pub(crate) has_changed: bool,
}

/// A step that was taken, for the loss curve.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepLoss {
    pub(crate) loss: f64,
    pub(crate) grad_norm: f64,
}

impl Progress {
    pub(crate) fn new(job_id: JobId) -> Self {
        let shared = Shared {
            job_id,
            stop: AtomicU8::new(0),
            first_step_at: OnceLock::new(),
            news: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The job's id, for logs.
    pub(crate) fn job_id(&self) -> JobId {
        self.shared.job_id
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
            has_changed: true,
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
        news.progress = Some(job::Progress {
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
        news.has_changed = true;
        if self.is_stopping() { Flow::Stop } else { Flow::Continue }
    }

    /// Shows what an image looks like after so many of its steps.
    pub(crate) fn show(&self, index: usize, step: usize, preview: RgbImage) {
        let mut news = self.news();
        news.previews.insert(index, (step, preview));
        news.has_changed = true;
    }

    /// Notes when the first denoising step began; later calls change nothing.
    pub(crate) fn begin_first_step(&self) {
        self.shared.first_step_at.get_or_init(Utc::now);
    }

    pub(crate) fn first_step_at(&self) -> Option<DateTime<Utc>> {
        self.shared.first_step_at.get().copied()
    }

    /// Asks the job to stop at its next step.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.shared.stop.fetch_max(reason as u8, Ordering::Relaxed);
    }

    /// Why it has been asked to, if it has.
    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        let reasons = [StopReason::WorkerEnds, StopReason::Canceled, StopReason::LeaseLost];
        let reason = self.shared.stop.load(Ordering::Relaxed);
        reasons.into_iter().find(|known| *known as u8 == reason)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop_reason().is_some()
    }

    /// An error if the job has been asked to stop: for the places between two pieces of work.
    pub(crate) fn check(&self) -> Result<(), JobError> {
        match self.stop_reason() {
            None => Ok(()),
            Some(StopReason::LeaseLost) => Err(JobError::LeaseLost),
            Some(StopReason::WorkerEnds | StopReason::Canceled) => Err(JobError::Stopped),
        }
    }

    /// Takes what is new, for the catalog. Phase and progress stay.
    pub(crate) fn take_news(&self) -> News {
        let mut news = self.news();
        News {
            phase: news.phase,
            phase_began: news.phase_began,
            progress: news.progress.clone(),
            metrics: std::mem::take(&mut news.metrics),
            previews: std::mem::take(&mut news.previews),
            written_previews: BTreeMap::new(),
            has_changed: std::mem::take(&mut news.has_changed),
        }
    }

    /// Notes previews that are written, as index and step; returns all that are by now.
    pub(crate) fn note_written(
        &self,
        previews: impl Iterator<Item = (usize, usize)>,
    ) -> Vec<PreviewStep> {
        let mut news = self.news();
        news.written_previews.extend(previews);
        let written = news.written_previews.iter();
        written.map(|(&index, &step)| PreviewStep { index, step }).collect()
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.shared.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_lease_outweighs_every_other_reason_to_stop() {
        let progress = Progress::new(JobId::generate());
        assert!(progress.check().is_ok());

        progress.stop(StopReason::LeaseLost);
        progress.stop(StopReason::WorkerEnds);

        assert_eq!(progress.stop_reason(), Some(StopReason::LeaseLost));
        assert!(matches!(progress.check(), Err(JobError::LeaseLost)));
        assert_eq!(progress.step(Phase::Optimizing, 1, 2, None), Flow::Stop);
    }

    #[test]
    fn news_are_told_once_and_progress_stays() {
        let progress = Progress::new(JobId::generate());
        let loss = |loss| Some(StepLoss { loss, grad_norm: 1.0 });
        progress.step(Phase::Optimizing, 1, 10, loss(1.0));
        progress.step(Phase::Optimizing, 2, 10, loss(2.0));

        let first = progress.take_news();
        let second = progress.take_news();

        assert_eq!((first.metrics.len(), first.has_changed), (2, true));
        assert_eq!((second.metrics.len(), second.has_changed), (0, false));
        assert_eq!(second.progress.map(|told| told.step), Some(2));
    }
}
