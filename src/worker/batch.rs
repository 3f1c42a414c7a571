//! The running batch: images of many jobs on their way from noise, one step at a time.
//!
//! An image joins between any two steps, whatever its concept, prompt, size, step count or scheduler, and leaves when it
//! is done; the images of one job come and go one by one. What goes wrong with one job is that job's alone.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

use image::RgbImage;
use tokio::sync::mpsc;

use super::concepts::SampleConcepts;
use super::conditioner::Conditioner;
use super::engine::Engine;
use super::error::JobError;
use super::faults::DeviceFaults;
use super::progress::Progress;
use crate::domain::id::JobId;
use crate::domain::job::Phase;
use crate::domain::sample::batch_elements;
use crate::engine::sampler::{self, Row, SampleRequest};

/// Pixels that are decoded in one call: the decoder takes much more memory than a denoising step.
const DECODED_AT_ONCE: usize = 512 * 512;

/// The images of a job, to be generated.
pub(crate) struct GenerationRequest {
    pub(crate) progress: Progress,
    pub(crate) concepts: SampleConcepts,
    /// One per image.
    pub(crate) requests: Vec<SampleRequest>,
    /// Shows each image every so many of its steps.
    pub(crate) preview_every: Option<usize>,
    /// Where the images go, each with its number; after an error no more come.
    pub(crate) images: mpsc::UnboundedSender<Result<(usize, RgbImage), JobError>>,
}

/// A request in the batch.
struct Generation {
    request: GenerationRequest,
    steps_done: Cell<usize>,
    /// Of all images, known when the first joins: some schedulers take a step more than they were asked for.
    total_steps: Cell<usize>,
    has_ended: Cell<bool>,
}

impl Generation {
    /// Nothing of it shall be generated any more.
    fn end(&self, error: JobError) {
        if !self.has_ended.replace(true) {
            // The job's own code may be gone by now: its worker was dropped.
            let _ = self.request.images.send(Err(error));
        }
    }

    /// Whether it has ended; a job that was asked to stop ends here.
    fn has_ended(&self) -> bool {
        if self.request.images.is_closed() {
            self.end(JobError::Stopped);
        }
        if let Err(stopped) = self.request.progress.check() {
            self.end(stopped);
        }
        self.has_ended.get()
    }

    /// One of its images has taken a step.
    fn note_step(&self) {
        self.steps_done.set(self.steps_done.get() + 1);
        let (done, total) = (self.steps_done.get(), self.total_steps.get());
        self.request.progress.step(Phase::Denoising, done, total, None);
    }
}

/// An image that has not joined yet.
struct PendingImage {
    generation: Rc<Generation>,
    index: usize,
}

impl PendingImage {
    /// The most that it takes of a call of the UNet.
    fn cost(&self, native_size: usize) -> usize {
        let request = &self.generation.request.requests[self.index];
        batch_elements(request.is_guided(), request.width, request.height, native_size)
    }
}

/// An image in the batch.
struct RunningImage {
    generation: Rc<Generation>,
    index: usize,
    row: Row,
}

impl RunningImage {
    /// What it takes of the next call of the UNet.
    fn cost(&self, native_size: usize) -> usize {
        let request = &self.generation.request.requests[self.index];
        batch_elements(self.row.width() > 1, request.width, request.height, native_size)
    }

    fn job_id(&self) -> JobId {
        self.generation.request.progress.job_id()
    }

    /// Shows what it looks like so far, where that is asked for and due; the last step is followed by the image itself.
    fn show(&self, engine: &Engine) {
        let GenerationRequest { progress, requests, preview_every, .. } = &self.generation.request;
        let left = self.row.remaining();
        let done = self.row.total_steps() - left;
        if left == 0 || preview_every.is_none_or(|every| !done.is_multiple_of(every)) {
            return;
        }
        match guarded(|| self.row.preview(&engine.base)) {
            Ok(preview) => {
                let index = requests[self.index].image_index as usize;
                preview.into_iter().for_each(|preview| progress.show(index, done, preview));
            }
            // The image itself may still be had.
            Err(error) => tracing::warn!(job.id = %self.job_id(), %error, "no preview"),
        }
    }
}

/// What is generated now, and what comes next.
pub(crate) struct Batch {
    /// Elements of one call of the UNet, in images of the base model's own size.
    max_size: usize,
    pending: VecDeque<PendingImage>,
    running: Vec<RunningImage>,
    faults: Option<Arc<dyn DeviceFaults>>,
}

impl Batch {
    pub(crate) fn new(max_size: usize, faults: Option<Arc<dyn DeviceFaults>>) -> Self {
        Self { max_size: max_size.max(1), pending: VecDeque::new(), running: Vec::new(), faults }
    }

    /// Lines a job's images up.
    pub(crate) fn add(&mut self, request: GenerationRequest) {
        let images = request.requests.len();
        let generation = Rc::new(Generation {
            request,
            steps_done: Cell::new(0),
            total_steps: Cell::new(0),
            has_ended: Cell::new(false),
        });
        let pending =
            (0..images).map(|index| PendingImage { generation: generation.clone(), index });
        self.pending.extend(pending);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.running.is_empty()
    }

    /// Takes every image one step further: lets new ones in, drops those of stopped jobs, and hands over those done.
    pub(crate) fn step(&mut self, engine: &Engine, conditioner: &mut Conditioner) {
        self.running.retain(|running| !running.generation.has_ended());
        self.admit(engine, conditioner);
        self.denoise(engine);
        let done = self.running.extract_if(.., |running| running.row.remaining() == 0).collect();
        deliver(engine, done);
    }

    /// Lets images in as long as there is room for them.
    fn admit(&mut self, engine: &Engine, conditioner: &mut Conditioner) {
        let native_size = engine.base.resolution();
        let mut taken: usize = self.running.iter().map(|running| running.cost(native_size)).sum();
        while let Some(next) = self.pending.front() {
            let cost = next.cost(native_size);
            // Larger than the batch, it goes alone.
            if !next.generation.has_ended() && taken > 0 && taken + cost > self.max_size {
                return;
            }
            let Some(PendingImage { generation, index }) = self.pending.pop_front() else { return };
            if generation.has_ended() {
                continue;
            }
            let GenerationRequest { progress, concepts, requests, .. } = &generation.request;
            match guarded(|| conditioner.start(engine, progress, concepts, &requests[index])) {
                Ok(row) => {
                    generation.total_steps.set(requests.len() * row.remaining());
                    self.running.push(RunningImage { generation, index, row });
                    taken += cost;
                }
                Err(error) => generation.end(error),
            }
        }
    }

    /// One step of all images that fit into a call, those that joined first before others.
    fn denoise(&mut self, engine: &Engine) {
        let native_size = engine.base.resolution();
        let mut taken = 0;
        let fit = self.running.iter().take_while(|running| {
            taken += running.cost(native_size);
            taken <= self.max_size
        });
        let count = fit.count().max(1).min(self.running.len());
        let turn = &mut self.running[..count];
        if turn.is_empty() {
            return;
        }
        let before: Vec<usize> = turn.iter().map(|running| running.row.remaining()).collect();
        let jobs: Vec<JobId> = turn.iter().map(RunningImage::job_id).collect();
        for running in turn.iter() {
            running.generation.request.progress.begin_first_step();
        }
        let mut rows: Vec<&mut Row> = turn.iter_mut().map(|running| &mut running.row).collect();
        let faults = self.faults.as_deref();
        let together = guarded(|| step(engine, &mut rows, &jobs, faults));
        for (running, before) in turn.iter_mut().zip(before) {
            if together.is_err() && running.row.remaining() == before {
                // Somebody's image cannot take the step: alone, each shows whether it is the one.
                let job = running.job_id();
                let alone = guarded(|| step(engine, &mut [&mut running.row], &[job], faults));
                if let Err(error) = alone {
                    running.generation.end(error);
                    continue;
                }
            }
            running.generation.note_step();
            running.show(engine);
        }
        self.running.retain(|running| !running.generation.has_ended.get());
    }
}

/// A denoising step of images of these jobs, together.
fn step(
    engine: &Engine,
    rows: &mut [&mut Row],
    jobs: &[JobId],
    faults: Option<&dyn DeviceFaults>,
) -> crate::engine::Result<()> {
    if let Some(faults) = faults {
        faults.before_denoising_step(jobs);
    }
    sampler::step(&engine.base, rows)
}

/// Decodes images and hands them to their jobs.
fn deliver(engine: &Engine, done: Vec<RunningImage>) {
    let mut rest = done.as_slice();
    while let Some(first) = rest.first() {
        let pixels = |running: &RunningImage| {
            let request = &running.generation.request.requests[running.index];
            request.width * request.height
        };
        let at_once = (DECODED_AT_ONCE / pixels(first)).clamp(1, rest.len());
        let (now, later) = rest.split_at(at_once);
        rest = later;
        let rows: Vec<&Row> = now.iter().map(|running| &running.row).collect();
        match guarded(|| sampler::pictures(&engine.base, &rows)) {
            Ok(images) => {
                for (running, image) in now.iter().zip(images) {
                    let _ = running.generation.request.images.send(Ok((running.index, image)));
                }
            }
            Err(error) if now.len() == 1 => now[0].generation.end(error),
            Err(_) => {
                for running in now {
                    match guarded(|| sampler::pictures(&engine.base, &[&running.row])) {
                        Ok(mut image) => {
                            let image = image.pop().map(|image| Ok((running.index, image)));
                            let _ = image.map(|one| running.generation.request.images.send(one));
                        }
                        Err(error) => running.generation.end(error),
                    }
                }
            }
        }
    }
}

/// Work on the device for one or several jobs, of which a panic ends no more than that.
fn guarded<T>(work: impl FnOnce() -> crate::engine::Result<T>) -> Result<T, JobError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(JobError::from),
        Err(_) => Err(JobError::EnginePanicked),
    }
}
