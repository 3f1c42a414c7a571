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
use super::engine::Engine;
use super::error::JobError;
use super::job::JobContext;
use crate::domain::job::Phase;
use crate::engine::sampler::{self, Row, SampleRequest};

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

/// A picture in the batch.
struct Running {
    order: Rc<Order>,
    index: usize,
    row: Row,
    /// How many rows of the base model's own size one of its rows counts for.
    scale: usize,
}

impl Running {
    /// Shows what it looks like so far, where that is asked for and due; the last step is followed by the picture itself.
    fn show(&self, engine: &Engine) {
        let Drawing { job, requests, preview_every, .. } = &self.order.drawing;
        let left = self.row.remaining();
        let done = self.row.total_steps() - left;
        if left == 0 || preview_every.is_none_or(|every| !done.is_multiple_of(every)) {
            return;
        }
        match guarded(|| self.row.preview(&engine.base)) {
            Ok(preview) => {
                let index = requests[self.index].image_index as usize;
                preview.into_iter().for_each(|picture| job.show(index, done, picture));
            }
            // The picture itself may still be had.
            Err(error) => tracing::warn!(job.id = %job.job_id, %error, "no preview"),
        }
    }

    fn cost(&self) -> usize {
        self.row.width() * self.scale
    }
}

/// What is drawn now, and what comes next.
pub(crate) struct Batch {
    /// Rows of one call of the UNet, guidance rows counted.
    row_budget: usize,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
}

impl Batch {
    pub(crate) fn new(row_budget: usize) -> Self {
        Self { row_budget: row_budget.max(1), waiting: VecDeque::new(), running: Vec::new() }
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
        self.running.retain(|running| !running.order.is_over());
        self.admit(engine, conditioner);
        self.denoise(engine);
        let done = self.running.extract_if(.., |running| running.row.remaining() == 0).collect();
        deliver(engine, done);
    }

    /// Lets pictures in as long as there is room for their rows.
    fn admit(&mut self, engine: &Engine, conditioner: &mut Conditioner) {
        let mut taken: usize = self.running.iter().map(Running::cost).sum();
        while let Some(next) = self.waiting.front() {
            let scale = scale(engine, next.request());
            let cost = next.request().max_width() * scale;
            // Larger than the budget, it goes alone.
            if !next.order.is_over() && taken > 0 && taken + cost > self.row_budget {
                return;
            }
            let Some(Waiting { order, index }) = self.waiting.pop_front() else { return };
            if order.is_over() {
                continue;
            }
            let Drawing { job, cast, requests, .. } = &order.drawing;
            match guarded(|| conditioner.row(engine, job, cast, &requests[index])) {
                Ok(row) => {
                    order.total_steps.set(requests.len() * row.remaining());
                    self.running.push(Running { order, index, row, scale });
                    taken += cost;
                }
                Err(error) => order.end(error),
            }
        }
    }

    /// One step of all rows that fit into the budget, those that joined first before others.
    fn denoise(&mut self, engine: &Engine) {
        let mut taken = 0;
        let fit = self.running.iter().take_while(|running| {
            taken += running.cost();
            taken <= self.row_budget
        });
        let count = fit.count().max(1).min(self.running.len());
        let turn = &mut self.running[..count];
        if turn.is_empty() {
            return;
        }
        let before: Vec<usize> = turn.iter().map(|running| running.row.remaining()).collect();
        for running in turn.iter() {
            running.order.drawing.job.begin_first_step();
        }
        let mut rows: Vec<&mut Row> = turn.iter_mut().map(|running| &mut running.row).collect();
        let together = guarded(|| sampler::step(&engine.base, &mut rows));
        for (running, before) in turn.iter_mut().zip(before) {
            if together.is_err() && running.row.remaining() == before {
                // Somebody's row cannot be drawn: alone, each shows whether it is the one.
                let alone = guarded(|| sampler::step(&engine.base, &mut [&mut running.row]));
                if let Err(error) = alone {
                    running.order.end(error);
                    continue;
                }
            }
            running.order.note_step();
            running.show(engine);
        }
        self.running.retain(|running| !running.order.over.get());
    }
}

/// Decodes pictures and hands them to their jobs.
fn deliver(engine: &Engine, done: Vec<Running>) {
    let mut rest = done.as_slice();
    while let Some(first) = rest.first() {
        let pixels = |running: &Running| {
            let request = &running.order.drawing.requests[running.index];
            request.width * request.height
        };
        let at_once = (DECODED_AT_ONCE / pixels(first)).clamp(1, rest.len());
        let (now, later) = rest.split_at(at_once);
        rest = later;
        let rows: Vec<&Row> = now.iter().map(|running| &running.row).collect();
        match guarded(|| sampler::pictures(&engine.base, &rows)) {
            Ok(pictures) => {
                for (running, picture) in now.iter().zip(pictures) {
                    let _ = running.order.drawing.pictures.send(Ok((running.index, picture)));
                }
            }
            Err(error) if now.len() == 1 => now[0].order.end(error),
            Err(_) => {
                for running in now {
                    match guarded(|| sampler::pictures(&engine.base, &[&running.row])) {
                        Ok(mut picture) => {
                            let picture = picture.pop().map(|picture| Ok((running.index, picture)));
                            let _ = picture.map(|one| running.order.drawing.pictures.send(one));
                        }
                        Err(error) => running.order.end(error),
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
