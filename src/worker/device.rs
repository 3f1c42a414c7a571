//! The one thread that owns a device.
//!
//! The engine is synchronous and a device does one thing at a time, so all its work runs here; async code reaches it by
//! message. Samples go through one running batch. Work that takes minutes lets the batch, and work that takes a moment,
//! in between its own steps, by the stated share of the device's time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

use super::batch::{Batch, GenerationRequest};
use super::conditioner::Conditioner;
use super::engine::Engine;
use super::error::JobError;
use super::fair_share::FairShare;
use super::faults::DeviceFaults;
use crate::engine::Flow;

/// The engine recurses into deep graphs; threads of the runtime have too small a stack for that.
const STACK_BYTES: usize = 64 * 1024 * 1024;

type Quick = Box<dyn FnOnce(&Engine) + Send>;
type Long = Box<dyn FnOnce(&Engine, &mut TimeSlices) + Send>;

/// How the device's time and memory are shared out.
#[derive(Clone, Debug)]
pub(crate) struct DeviceSettings {
    /// Elements of one call of the UNet, in images of the base model's own size.
    pub(crate) max_batch_size: usize,
    /// Fraction of the device's time that a training has while samples wait.
    pub(crate) training_share: f64,
    /// Memory for kept K and V.
    pub(crate) conditioning_bytes: usize,
    pub(crate) faults: Option<Arc<dyn DeviceFaults>>,
}

/// A handle to the thread. When the last handle is dropped, the thread stops at its next step and is joined.
#[derive(Clone)]
pub(crate) struct DeviceThread {
    handle: Arc<Handle>,
}

struct Handle {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.wake.notify_all();
        let Some(thread) = self.thread.take() else { return };
        // Work on the thread may have held the last handle.
        if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
            tracing::error!("the device's thread ended in a panic");
        }
    }
}

#[derive(Default)]
struct Queue {
    messages: Mutex<Messages>,
    wake: Condvar,
}

/// What async code has asked for.
#[derive(Default)]
struct Messages {
    generations: Vec<GenerationRequest>,
    quick: VecDeque<Quick>,
    long: VecDeque<Long>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Messages> {
        // Nothing panics while holding it.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, ask: impl FnOnce(&mut Messages)) {
        ask(&mut self.lock());
        self.wake.notify_one();
    }
}

impl DeviceThread {
    /// Starts the thread, which takes over the engine.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub(crate) fn start(engine: Engine, settings: DeviceSettings) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let thread = std::thread::Builder::new().name("device".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn({
            let queue = queue.clone();
            move || {
                let mut slices = TimeSlices {
                    queue,
                    batch: Batch::new(settings.max_batch_size, settings.faults),
                    conditioner: Conditioner::new(settings.conditioning_bytes),
                    share: FairShare::new(settings.training_share),
                    resumed: Instant::now(),
                };
                while let Some(work) = slices.until_long(&engine) {
                    guarded(|| work(&engine, &mut slices));
                }
            }
        })?;
        Ok(Self { handle: Arc::new(Handle { queue, thread: Some(thread) }) })
    }

    /// Adds images to the batch.
    pub(crate) fn generate(&self, request: GenerationRequest) {
        self.handle.queue.send(|messages| messages.generations.push(request));
    }

    /// Runs what takes a moment; lets nothing else in.
    ///
    /// # Errors
    /// [`JobError::EnginePanicked`]
    pub(crate) async fn run_quick<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let (sender, answer) = oneshot::channel();
        let work: Quick = Box::new(move |engine| {
            // Nobody waits any more if the worker was dropped; the work is done for nothing then.
            let _ = sender.send(work(engine));
        });
        self.handle.queue.send(|messages| messages.quick.push_back(work));
        answer.await.map_err(|_| JobError::EnginePanicked)
    }

    /// Runs what takes minutes, and shall let other work in between its steps.
    ///
    /// # Errors
    /// [`JobError::EnginePanicked`]
    pub(crate) async fn run_long<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, &mut TimeSlices) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let (sender, answer) = oneshot::channel();
        let work: Long = Box::new(move |engine, slices| {
            let _ = sender.send(work(engine, slices));
        });
        self.handle.queue.send(|messages| messages.long.push_back(work));
        answer.await.map_err(|_| JobError::EnginePanicked)
    }
}

/// All that goes on beside long work.
pub(crate) struct TimeSlices {
    queue: Arc<Queue>,
    batch: Batch,
    conditioner: Conditioner,
    share: FairShare,
    /// When the long work had the device again.
    resumed: Instant,
}

impl TimeSlices {
    /// Lets others have the device for as long as is their due, and says whether to go on; long work calls this between
    /// two steps.
    pub(crate) fn give(&mut self, engine: &Engine) -> Flow {
        self.share.trained(self.resumed.elapsed());
        loop {
            self.take_messages(engine);
            if self.batch.is_empty() {
                self.share.nobody_waits();
                break;
            }
            if !self.share.is_samples_turn() {
                break;
            }
            self.step(engine);
        }
        self.resumed = Instant::now();
        if self.queue.lock().closed { Flow::Stop } else { Flow::Continue }
    }

    /// Does everything else until there is long work; `None` when all handles are gone.
    fn until_long(&mut self, engine: &Engine) -> Option<Long> {
        loop {
            self.take_messages(engine);
            let mut messages = self.queue.lock();
            if messages.closed {
                return None; // whatever is left has nobody who waits for it
            }
            if let Some(long) = messages.long.pop_front() {
                drop(messages);
                self.share.begin();
                self.resumed = Instant::now();
                return Some(long);
            }
            if self.batch.is_empty() {
                let idle = |messages: &Messages| {
                    let Messages { generations, quick, long, closed } = messages;
                    generations.is_empty() && quick.is_empty() && long.is_empty() && !closed
                };
                while idle(&messages) {
                    let woken = self.queue.wake.wait(messages);
                    messages = woken.unwrap_or_else(PoisonError::into_inner);
                }
            } else {
                drop(messages);
                self.step(engine);
            }
        }
    }

    /// One step of the batch, on its account.
    fn step(&mut self, engine: &Engine) {
        let began = Instant::now();
        self.batch.step(engine, &mut self.conditioner);
        self.share.sampled(began.elapsed());
    }

    /// Takes new images into the batch, and does the quick work that waits.
    fn take_messages(&mut self, engine: &Engine) {
        loop {
            let (generations, quick) = {
                let mut messages = self.queue.lock();
                (std::mem::take(&mut messages.generations), messages.quick.pop_front())
            };
            generations.into_iter().for_each(|request| self.batch.add(request));
            let Some(work) = quick else { return };
            let began = Instant::now();
            guarded(|| work(engine));
            self.share.sampled(began.elapsed());
        }
    }
}

/// A panic ends the work that caused it, not the thread: its sender is dropped, which its waiter notices.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("work on the device panicked");
    }
}
