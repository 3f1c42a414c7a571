//! The running batch: images of many jobs, denoised together one step at a time.
//!
//! An image joins between any two steps, whatever its concept, prompt, size, step count or scheduler, and leaves when
//! it is done; the images of one job come and go one by one. What goes wrong with one job affects no other.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use image::RgbImage;
use tokio::sync::mpsc;

use super::concepts::SampleConcepts;
use super::conditioner::Conditioner;
use super::engine::Engine;
use super::error::JobError;
use super::faults::DeviceFaults;
use super::job_steps::JobSteps;
use super::progress::Progress;
use super::row_budget::RowBudget;
use crate::counters::WORK;
use crate::domain::id::{JobId, SampleId};
use crate::domain::sample::batch_elements;
use crate::engine::device::release_memory;
use crate::engine::{
    AttentionMaps, DenoisingState, EngineError, RunningBatch, RunningImage, SampleRequest, images,
};

/// Pixels that are decoded in one call: the decoder takes much more memory than a denoising step.
const DECODED_AT_ONCE: usize = 512 * 512;

/// The images of a job, to be generated.
pub(crate) struct GenerationRequest {
    pub(crate) progress: Progress,
    pub(crate) concepts: SampleConcepts,
    /// One per image.
    pub(crate) requests: Vec<SampleRequest>,
    /// Makes a preview of each image every this many steps.
    pub(crate) preview_every: Option<usize>,
    /// Groups of the prompt's tokens, by their positions: the images come with maps of their attention to these.
    pub(crate) watched: Vec<Vec<usize>>,
    /// What the job's progress counts meanwhile.
    pub(crate) steps: JobSteps,
    /// Receives the images. After an error no more are sent.
    pub(crate) images: mpsc::UnboundedSender<Result<Generated, JobError>>,
}

/// A finished image.
pub(crate) struct Generated {
    /// Its place among the requests.
    pub(crate) index: usize,
    pub(crate) image: RgbImage,
    /// Where it attended to the watched tokens.
    pub(crate) attention: Option<AttentionMaps>,
}

/// A request in the batch.
struct Generation {
    request: GenerationRequest,
    has_ended: Cell<bool>,
}

impl Generation {
    /// The job has ended: no more of its images are generated.
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
        let GenerationRequest { progress, steps, .. } = &self.request;
        let (done, total) = steps.take();
        progress.step(steps.phase, done, total, None);
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

/// Whose image one in the batch is.
struct Owner {
    generation: Rc<Generation>,
    index: usize,
}

impl Owner {
    fn request(&self) -> &SampleRequest {
        &self.generation.request.requests[self.index]
    }

    fn job_id(&self) -> JobId {
        self.generation.request.progress.job_id()
    }

    /// Makes a preview if one was requested and is due. There is none after the last step, since the image follows.
    fn show(&self, engine: &Engine, state: &DenoisingState) {
        let GenerationRequest { progress, preview_every, .. } = &self.generation.request;
        let left = state.remaining();
        let done = state.total_steps() - left;
        if left == 0 || preview_every.is_none_or(|every| !done.is_multiple_of(every)) {
            return;
        }
        match guarded(|| state.preview(&engine.base)) {
            Ok(preview) => {
                let index = self.request().image_index as usize;
                preview.into_iter().for_each(|preview| progress.show(index, done, preview));
            }
            // The image itself may still succeed.
            Err(error) => {
                tracing::warn!(job.id = %SampleId::from(self.job_id()), %error, "no preview")
            }
        }
    }

    /// Hands the finished image to its job.
    fn send(&self, image: RgbImage, attention: Option<AttentionMaps>) {
        let generated = Generated { index: self.index, image, attention };
        // The receiver is gone if the worker was dropped.
        let _ = self.generation.request.images.send(Ok(generated));
    }
}

/// The images that are being denoised, and those that wait to join.
pub(crate) struct Batch {
    pending: VecDeque<PendingImage>,
    running: RunningBatch<Owner>,
    budget: RowBudget,
    faults: Option<Arc<dyn DeviceFaults>>,
}

impl Batch {
    /// - `max_size`: elements of one call of the UNet, in images of the base model's own size
    pub(crate) fn new(max_size: usize, faults: Option<Arc<dyn DeviceFaults>>) -> Self {
        WORK.max_batch_elements.set(max_size as u64);
        let (running, budget) = (RunningBatch::new(max_size), RowBudget::new(max_size));
        Self { pending: VecDeque::new(), running, budget, faults }
    }

    /// Queues a job's images.
    pub(crate) fn add(&mut self, request: GenerationRequest) {
        let images = request.requests.len();
        let generation = Rc::new(Generation { request, has_ended: Cell::new(false) });
        let pending =
            (0..images).map(|index| PendingImage { generation: generation.clone(), index });
        self.pending.extend(pending);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.running.is_empty()
    }

    /// Takes every image one step further. Admits new images, drops those of stopped jobs, and hands over finished
    /// ones.
    pub(crate) fn step(&mut self, engine: &Engine, conditioner: &mut Conditioner) {
        if let Some(faults) = &self.faults {
            faults.between_steps();
        }
        self.running.retain(|owner| !owner.generation.has_ended());
        self.admit(engine, conditioner);
        self.denoise(engine);
        deliver(engine, &self.running.take_finished());
    }

    /// Ends every job that has images here.
    pub(crate) fn abandon(&mut self) {
        for PendingImage { generation, .. } in std::mem::take(&mut self.pending) {
            generation.end(JobError::EnginePanicked);
        }
        self.running.retain(|owner| {
            owner.generation.end(JobError::EnginePanicked);
            false
        });
    }

    /// For tests: a place outside of any work.
    pub(crate) fn on_thread(&self) {
        if let Some(faults) = &self.faults {
            faults.on_thread();
        }
    }

    /// Admits images as long as there is room for them.
    fn admit(&mut self, engine: &Engine, conditioner: &mut Conditioner) {
        let native_size = engine.base.resolution();
        while let Some(next) = self.pending.front() {
            let has_room = self.running.has_room_for(next.cost(native_size));
            if !next.generation.has_ended() && !has_room {
                return;
            }
            let Some(PendingImage { generation, index }) = self.pending.pop_front() else { return };
            if generation.has_ended() {
                continue;
            }
            let GenerationRequest { progress, concepts, requests, watched, steps, .. } =
                &generation.request;
            let request = &requests[index];
            match guarded(|| conditioner.start(engine, progress, concepts, request)) {
                Ok(mut state) => {
                    if !watched.is_empty() {
                        state.watch(watched);
                    }
                    steps.expect(request, state.remaining());
                    let scale = batch_elements(false, request.width, request.height, native_size);
                    let owner = Owner { generation, index };
                    self.running.join(RunningImage { owner, state, scale });
                }
                Err(error) => generation.end(error),
            }
        }
    }

    /// One step of all images whose turn it is.
    fn denoise(&mut self, engine: &Engine) {
        let mut elements = 0;
        for image in self.running.turn() {
            elements += image.cost();
            image.owner.generation.request.progress.begin_first_step();
        }
        let faults = self.faults.as_deref();
        let ran_out = Cell::new(false);
        let began = Instant::now();
        self.running.step(
            &engine.base,
            |owners, call| {
                let called = guarded(|| {
                    if let Some(faults) = faults {
                        let jobs: Vec<JobId> = owners.iter().map(|owner| owner.job_id()).collect();
                        faults.before_denoising_step(&jobs);
                        if owners.len() > faults.images_in_memory() {
                            let error = candle_core::Error::msg("as the tests ask for");
                            return Err(EngineError::OutOfMemory(error));
                        }
                    }
                    call()
                });
                if let Err(JobError::Engine(EngineError::OutOfMemory(_))) = &called {
                    // Of several images, each is tried alone now, and the next step takes fewer.
                    release_memory(&engine.base.device);
                    ran_out.set(true);
                }
                called
            },
            |image, result| match result {
                Ok(()) => {
                    image.owner.generation.note_step();
                    image.owner.show(engine, &image.state);
                }
                Err(error) => image.owner.generation.end(error),
            },
        );
        if elements > 0 {
            WORK.denoising_steps.observe(began.elapsed());
            WORK.denoised_elements.add(elements as u64);
            self.adapt(elements, ran_out.get());
        }
        self.running.retain(|owner| !owner.generation.has_ended.get());
    }
}

impl Batch {
    /// Fits the size of the next step to the device's memory.
    fn adapt(&mut self, elements: usize, ran_out: bool) {
        if ran_out {
            self.budget.shrink(elements);
            let now = self.budget.elements();
            tracing::warn!(elements, now, "a denoising step ran out of the device's memory");
        } else if !self.budget.note_step() {
            return;
        }
        self.running.set_max_elements(self.budget.elements());
        WORK.max_batch_elements.set(self.budget.elements() as u64);
    }
}

/// Decodes images and hands them to their jobs.
fn deliver(engine: &Engine, finished: &[RunningImage<Owner>]) {
    let mut rest = finished;
    while let Some(first) = rest.first() {
        let request = first.owner.request();
        let at_once = (DECODED_AT_ONCE / (request.width * request.height)).clamp(1, rest.len());
        let (now, later) = rest.split_at(at_once);
        rest = later;
        if let Err(error) = decode(engine, now) {
            if let [alone] = now {
                alone.owner.generation.end(error);
                continue;
            }
            for image in now {
                if let Err(error) = decode(engine, std::slice::from_ref(image)) {
                    image.owner.generation.end(error);
                }
            }
        }
    }
}

/// Decodes these in one call, and hands them over if that succeeds.
fn decode(engine: &Engine, finished: &[RunningImage<Owner>]) -> Result<(), JobError> {
    let states: Vec<&DenoisingState> = finished.iter().map(|image| &image.state).collect();
    let images = guarded(|| images(&engine.base, &states))?;
    for (image, decoded) in finished.iter().zip(images) {
        image.owner.send(decoded, image.state.attention().cloned());
    }
    Ok(())
}

/// Runs work for one or several jobs. A panic ends these jobs and nothing else.
fn guarded<T>(work: impl FnOnce() -> crate::engine::Result<T>) -> Result<T, JobError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(JobError::from),
        Err(_) => Err(JobError::EnginePanicked),
    }
}
