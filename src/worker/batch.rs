//! The running batch: pictures of many jobs on their way from noise, one step at a time.
//!
//! A picture joins between any two steps, whatever its concept, prompt, size, step count or scheduler, and leaves when it
//! is done; the pictures of one job come and go one by one. What goes wrong with one job is that job's alone.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use image::RgbImage;
use tokio::sync::mpsc;

use super::conditioner::{Cast, Conditioner};
use super::error::JobError;
use super::job::JobContext;
use super::model::Engine;
use crate::domain::job::Phase;
use crate::engine::{DenoisingState, RunningBatch, RunningImage, SampleRequest, images};

/// Pixels that are decoded in one call: the decoder takes much more memory than a denoising step.
const DECODED_AT_ONCE: usize = 512 * 512;

/// The pictures of a job, to be drawn.
pub(crate) struct Drawing {
    pub(crate) job: JobContext,
    pub(crate) cast: Cast,
    /// One per picture.
    pub(crate) requests: Vec<SampleRequest>,
    /// Shows each picture every so many of its steps.
    pub(crate) preview_every: Option<usize>,
    /// Where the pictures go, each with its number; after an error no more come.
    pub(crate) pictures: mpsc::UnboundedSender<Result<(usize, RgbImage), JobError>>,
}

/// A drawing in the batch.
struct Order {
    drawing: Drawing,
    steps_done: Cell<usize>,
    /// Of all pictures, known when the first joins: some schedulers take a step more than they were asked for.
    total_steps: Cell<usize>,
    over: Cell<bool>,
}

impl Order {
    /// Nothing of it shall be drawn any more.
    fn end(&self, error: JobError) {
        if !self.over.replace(true) {
            // The job's own code may be gone by now: its lease was lost.
            let _ = self.drawing.pictures.send(Err(error));
        }
    }

    fn is_over(&self) -> bool {
        if self.drawing.job.is_stopping() || self.drawing.pictures.is_closed() {
            self.end(JobError::Stopped);
        }
        self.over.get()
    }

    /// One of its pictures has taken a step.
    fn note_step(&self) {
        self.steps_done.set(self.steps_done.get() + 1);
        let (done, total) = (self.steps_done.get(), self.total_steps.get());
        self.drawing.job.step(Phase::Denoising, done, total, None);
    }
}

/// A picture that has not joined yet.
struct Waiting {
    order: Rc<Order>,
    index: usize,
}

impl Waiting {
    fn request(&self) -> &SampleRequest {
        &self.order.drawing.requests[self.index]
    }
}

/// Whose picture one in the batch is.
struct Owner {
    order: Rc<Order>,
    index: usize,
}

type Running = RunningImage<Owner>;

impl Owner {
    /// Shows what it looks like so far, where that is asked for and due; the last step is followed by the picture itself.
    fn show(&self, engine: &Engine, state: &DenoisingState) {
        let Drawing { job, requests, preview_every, .. } = &self.order.drawing;
        let left = state.remaining();
        let done = state.total_steps() - left;
        if left == 0 || preview_every.is_none_or(|every| !done.is_multiple_of(every)) {
            return;
        }
        match guarded(|| state.preview(&engine.base)) {
            Ok(preview) => {
                let index = requests[self.index].image_index as usize;
                preview.into_iter().for_each(|picture| job.show(index, done, picture));
            }
            // The picture itself may still be had.
            Err(error) => tracing::warn!(job.id = %job.job_id, %error, "no preview"),
        }
    }
}

/// What is drawn now, and what comes next.
pub(crate) struct Batch {
    waiting: VecDeque<Waiting>,
    running: RunningBatch<Owner>,
}

impl Batch {
    /// - `row_budget`: elements of one call of the UNet, guidance counted
    pub(crate) fn new(row_budget: usize) -> Self {
        Self { waiting: VecDeque::new(), running: RunningBatch::new(row_budget) }
    }

    /// Lines a job's pictures up.
    pub(crate) fn add(&mut self, drawing: Drawing) {
        let pictures = drawing.requests.len();
        let order = Rc::new(Order {
            drawing,
            steps_done: Cell::new(0),
            total_steps: Cell::new(0),
            over: Cell::new(false),
        });
        let waiting = (0..pictures).map(|index| Waiting { order: order.clone(), index });
        self.waiting.extend(waiting);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Takes every picture one step further: lets new ones in, drops those of stopped jobs, and hands over those done.
    pub(crate) fn step(&mut self, engine: &Engine, conditioner: &mut Conditioner) {
        self.running.retain(|owner| !owner.order.is_over());
        self.admit(engine, conditioner);
        self.denoise(engine);
        deliver(engine, self.running.take_finished());
    }

    /// Lets pictures in as long as there is room for their rows.
    fn admit(&mut self, engine: &Engine, conditioner: &mut Conditioner) {
        while let Some(next) = self.waiting.front() {
            let scale = scale(engine, next.request());
            let cost = next.request().max_elements() * scale;
            if !next.order.is_over() && !self.running.has_room_for(cost) {
                return;
            }
            let Some(Waiting { order, index }) = self.waiting.pop_front() else { return };
            if order.is_over() {
                continue;
            }
            let Drawing { job, cast, requests, .. } = &order.drawing;
            match guarded(|| conditioner.row(engine, job, cast, &requests[index])) {
                Ok(state) => {
                    order.total_steps.set(requests.len() * state.remaining());
                    self.running.join(Running { owner: Owner { order, index }, state, scale });
                }
                Err(error) => order.end(error),
            }
        }
    }

    /// One step of all pictures whose turn it is.
    fn denoise(&mut self, engine: &Engine) {
        for running in self.running.turn() {
            running.owner.order.drawing.job.begin_first_step();
        }
        self.running.step(
            &engine.base,
            |call| guarded(call),
            |running, result| match result {
                Ok(()) => {
                    running.owner.order.note_step();
                    running.owner.show(engine, &running.state);
                }
                Err(error) => running.owner.order.end(error),
            },
        );
        self.running.retain(|owner| !owner.order.over.get());
    }
}

/// Decodes pictures and hands them to their jobs.
fn deliver(engine: &Engine, done: Vec<Running>) {
    let mut rest = done.as_slice();
    while let Some(first) = rest.first() {
        let pixels = |running: &Running| {
            let request = &running.owner.order.drawing.requests[running.owner.index];
            request.width * request.height
        };
        let at_once = (DECODED_AT_ONCE / pixels(first)).clamp(1, rest.len());
        let (now, later) = rest.split_at(at_once);
        rest = later;
        let states: Vec<&DenoisingState> = now.iter().map(|running| &running.state).collect();
        match guarded(|| images(&engine.base, &states)) {
            Ok(pictures) => {
                for (running, picture) in now.iter().zip(pictures) {
                    let Owner { order, index } = &running.owner;
                    let _ = order.drawing.pictures.send(Ok((*index, picture)));
                }
            }
            Err(error) if now.len() == 1 => now[0].owner.order.end(error),
            Err(_) => {
                for running in now {
                    let Owner { order, index } = &running.owner;
                    match guarded(|| images(&engine.base, &[&running.state])) {
                        Ok(mut picture) => {
                            let picture = picture.pop().map(|picture| Ok((*index, picture)));
                            let _ = picture.map(|one| order.drawing.pictures.send(one));
                        }
                        Err(error) => order.end(error),
                    }
                }
            }
        }
    }
}

/// How many rows of the base model's own size a row of this size counts for.
fn scale(engine: &Engine, request: &SampleRequest) -> usize {
    let own = engine.base.resolution().pow(2);
    (request.width * request.height).div_ceil(own).max(1)
}

/// Work on the device for one or several jobs, of which a panic ends no more than that.
fn guarded<T>(work: impl FnOnce() -> crate::engine::Result<T>) -> Result<T, JobError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(JobError::from),
        Err(_) => Err(JobError::EnginePanicked),
    }
}
