//! The progress of a job, and the request to stop it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use image::RgbImage;

use super::error::JobError;
use crate::domain::id::JobId;
use crate::domain::job::{self, Metric, Phase, PreviewStep};
use crate::engine::Flow;

/// Weight of a new loss in the smoothed one: about the mean of the last twenty.
const SMOOTHING: f64 = 0.1;

/// A cheap handle to a running job: all that the batch, the conditioner and the device know of it.
///
/// The code that runs the job writes here. The heartbeat writes the changes to the catalog, and asks the job to stop.
#[derive(Clone)]
pub(crate) struct Progress {
    shared: Arc<Shared>,
}

struct Shared {
    job_id: JobId,
    /// A [`StopReason`], or 0.
    stop: AtomicU8,
    first_step: OnceLock<Instant>,
    resumed: OnceLock<Resumed>,
    news: Mutex<News>,
}

/// From where a training goes on.
#[derive(Clone, Copy, Debug)]
struct Resumed {
    /// The smoothed loss there.
    loss: Option<f64>,
}

/// Why a job should stop at its next step. A later variant overrides an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StopReason {
    /// The worker shuts down, and another one may run the job.
    WorkerEnds = 1,
    /// A client has canceled the job.
    Canceled = 2,
    /// Another worker has the job, so nothing that this one writes counts.
    LeaseLost = 3,
}

/// What has changed since the last heartbeat.
#[derive(Default)]
pub(crate) struct News {
    pub(crate) phase: Option<Phase>,
    phase_began: Option<Instant>,
    /// The steps that had been taken then.
    began_at_step: usize,
    pub(crate) progress: Option<job::Progress>,
    pub(crate) metrics: Vec<Metric>,
    /// The newest preview of each image, by its index, with its step. An older one that was not written yet is dropped.
    pub(crate) previews: BTreeMap<usize, (usize, Arc<RgbImage>)>,
    /// The previews that are written, by index, with their steps. Only these are announced to clients.
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
            first_step: OnceLock::new(),
            resumed: OnceLock::new(),
            news: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The job's id, for logs.
    pub(crate) fn job_id(&self) -> JobId {
        self.shared.job_id
    }

    /// Goes on from a training step: the smoothed loss continues.
    ///
    /// - `losses`: those of the steps before, in order
    pub(crate) fn resume_from(&self, losses: impl IntoIterator<Item = f64>) {
        let loss = losses.into_iter().fold(None, |before, loss| Some(smoothed(before, loss)));
        self.shared.resumed.get_or_init(|| Resumed { loss });
    }

    /// Enters a phase.
    pub(crate) fn enter(&self, phase: Phase) {
        let mut news = self.news();
        *news = News {
            phase: Some(phase),
            phase_began: Some(Instant::now()),
            began_at_step: 0,
            progress: None,
            metrics: std::mem::take(&mut news.metrics),
            previews: std::mem::take(&mut news.previews),
            written_previews: std::mem::take(&mut news.written_previews),
            has_changed: true,
        };
    }

    /// Records a step of the phase, enters the phase if necessary, and returns whether to go on.
    pub(crate) fn step(
        &self,
        phase: Phase,
        step: usize,
        total_steps: usize,
        loss: Option<StepLoss>,
    ) -> Flow {
        if self.news().phase != Some(phase) {
            self.enter(phase);
            // The time of this step has passed already, so it does not count for the speed.
            self.news().began_at_step = step;
        }
        if matches!(phase, Phase::Optimizing | Phase::Denoising) {
            self.begin_first_step(); // unless whoever takes the steps has said so before the first
        }
        let resumed = self.shared.resumed.get().filter(|_| phase == Phase::Optimizing);
        let mut news = self.news();
        let elapsed = news.phase_began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let steps = step.saturating_sub(news.began_at_step);
        let steps_per_second = (steps > 0 && elapsed > 0.0).then(|| steps as f64 / elapsed);
        let before = match &news.progress {
            Some(progress) => progress.loss,
            None => resumed.and_then(|resumed| resumed.loss),
        };
        news.progress = Some(job::Progress {
            step,
            total_steps,
            loss: loss.map(|now| smoothed(before, now.loss)),
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

    /// Records a preview of an image after `step` of its steps.
    pub(crate) fn show(&self, index: usize, step: usize, preview: RgbImage) {
        let mut news = self.news();
        news.previews.insert(index, (step, Arc::new(preview)));
        news.has_changed = true;
    }

    /// Records when the first step of training or denoising began. Later calls change nothing.
    pub(crate) fn begin_first_step(&self) {
        self.shared.first_step.get_or_init(Instant::now);
    }

    /// How long ago that was.
    pub(crate) fn since_first_step(&self) -> Option<Duration> {
        self.shared.first_step.get().map(Instant::elapsed)
    }

    /// Asks the job to stop at its next step.
    pub(crate) fn stop(&self, reason: StopReason) {
        self.shared.stop.fetch_max(reason as u8, Ordering::Relaxed);
    }

    /// Why the job has been asked to stop, if it has.
    pub(crate) fn stop_reason(&self) -> Option<StopReason> {
        let reasons = [StopReason::WorkerEnds, StopReason::Canceled, StopReason::LeaseLost];
        let reason = self.shared.stop.load(Ordering::Relaxed);
        reasons.into_iter().find(|known| *known as u8 == reason)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop_reason().is_some()
    }

    /// Returns an error if the job has been asked to stop. For places between two pieces of work.
    pub(crate) fn check(&self) -> Result<(), JobError> {
        match self.stop_reason() {
            None => Ok(()),
            Some(StopReason::LeaseLost) => Err(JobError::LeaseLost),
            Some(StopReason::WorkerEnds | StopReason::Canceled) => Err(JobError::Stopped),
        }
    }

    /// Takes what has changed, for the catalog. Phase and progress stay.
    ///
    /// The rest comes back unless [`TakenNews::written`] is called, also if whoever writes it is dropped on the way.
    pub(crate) fn take_news(&self) -> TakenNews<'_> {
        let mut news = self.news();
        let taken = News {
            phase: news.phase,
            phase_began: news.phase_began,
            began_at_step: news.began_at_step,
            progress: news.progress.clone(),
            metrics: std::mem::take(&mut news.metrics),
            previews: std::mem::take(&mut news.previews),
            written_previews: BTreeMap::new(),
            has_changed: std::mem::take(&mut news.has_changed),
        };
        drop(news);
        TakenNews { progress: self, news: taken }
    }

    /// Puts what was not written in front of what has come since.
    fn put_back(&self, unwritten: News) {
        let mut news = self.news();
        let newer = std::mem::replace(&mut news.metrics, unwritten.metrics);
        news.metrics.extend(newer);
        for (index, preview) in unwritten.previews {
            news.previews.entry(index).or_insert(preview);
        }
        news.has_changed |= unwritten.has_changed;
    }

    /// Records previews that have been written, as index and step. Returns all that have been written so far.
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

/// News on the way to the catalog.
pub(crate) struct TakenNews<'a> {
    progress: &'a Progress,
    pub(crate) news: News,
}

impl TakenNews<'_> {
    /// Says that the news are in the catalog.
    pub(crate) fn written(mut self) {
        self.news = News::default();
    }
}

impl Drop for TakenNews<'_> {
    fn drop(&mut self) {
        self.progress.put_back(std::mem::take(&mut self.news));
    }
}

/// The smoothed loss after another step.
fn smoothed(before: Option<f64>, loss: f64) -> f64 {
    before.map_or(loss, |before| before + SMOOTHING * (loss - before))
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
        assert_eq!((first.news.metrics.len(), first.news.has_changed), (2, true));
        first.written();

        let second = progress.take_news();
        assert_eq!((second.news.metrics.len(), second.news.has_changed), (0, false));
        assert_eq!(second.news.progress.as_ref().map(|told| told.step), Some(2));
    }

    #[test]
    fn news_that_were_not_written_come_back_before_those_that_came_since() {
        let progress = Progress::new(JobId::generate());
        let step = |step| {
            let loss = StepLoss { loss: step as f64, grad_norm: 1.0 };
            progress.step(Phase::Optimizing, step, 10, Some(loss));
        };
        let shade = |shade| RgbImage::from_pixel(1, 1, image::Rgb([shade; 3]));
        step(1);
        progress.show(0, 1, shade(1));
        progress.show(1, 1, shade(1));

        let unwritten = progress.take_news();
        step(2);
        progress.show(1, 2, shade(2));
        drop(unwritten);

        let again = progress.take_news();
        let steps: Vec<i32> = again.news.metrics.iter().map(|metric| metric.step).collect();
        let previews: Vec<_> =
            again.news.previews.iter().map(|(i, (step, _))| (*i, *step)).collect();
        assert_eq!((steps, previews), (vec![1, 2], vec![(0, 1), (1, 2)]));
        assert!(again.news.has_changed);
    }

    #[test]
    fn a_resumed_training_goes_on_with_its_smoothed_loss_and_counts_its_own_steps() {
        let losses = [3.0, 2.0, 2.5, 1.0, 2.0];
        let undisturbed = Progress::new(JobId::generate());
        let resumed = Progress::new(JobId::generate());
        let step = |progress: &Progress, step: usize| {
            let loss = StepLoss { loss: losses[step - 1], grad_norm: 1.0 };
            progress.step(Phase::Optimizing, step, 1_000, Some(loss));
            progress.take_news().news.progress.clone().unwrap()
        };
        resumed.resume_from(losses[..3].iter().copied());
        resumed.step(Phase::Encoding, 1, 4, None);

        let (mut expected, mut told) = (None, None);
        for number in 1..=5 {
            expected = Some(step(&undisturbed, number));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        for number in 4..=5 {
            told = Some(step(&resumed, number));
            std::thread::sleep(std::time::Duration::from_millis(2));
        }

        let (expected, told) = (expected.unwrap(), told.unwrap());
        assert_eq!((told.step, told.loss), (5, expected.loss));
        // One step, not five, in the time since the first one had been taken.
        let (rate, eta) = (told.steps_per_second.unwrap(), told.eta_seconds.unwrap());
        assert!((eta * rate - 995.0).abs() < 1e-6, "{told:?}");
    }
}
