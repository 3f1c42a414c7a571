//! The one thread that owns a device.
//!
//! The engine is synchronous and a device does one thing at a time, so all its work runs here; async code reaches it by
//! message. Samples go through one running batch. Long work lets the batch and quick work use the device between its
//! own steps, by the configured share of the time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::batch::{Batch, GenerationRequest};
use super::conditioner::Conditioner;
use super::engine::Engine;
use super::error::JobError;
use super::fair_share::FairShare;
use super::faults::DeviceFaults;
use crate::engine::Flow;

/// The engine recurses into deep graphs. The stacks of the runtime's threads are too small for that.
const STACK_BYTES: usize = 64 * 1024 * 1024;

type Quick = Box<dyn FnOnce(&Engine) + Send>;
type Long = Box<dyn FnOnce(&Engine, &mut TimeSlices) + Send>;

/// How the device's time and memory are divided.
#[derive(Clone, Debug)]
pub(crate) struct DeviceSettings {
    /// Elements of one call of the UNet, in images of the base model's own size.
    pub(crate) max_batch_size: usize,
    /// Fraction of the device's time that a training has while samples wait.
    pub(crate) training_share: f64,
    /// Memory for cached K and V.
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
    /// Cancelled when the thread has ended, in whatever way.
    ended: CancellationToken,
}

/// The messages of async code.
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

    /// Drops the message if the thread has ended, so that its sender gets an error instead of waiting for ever.
    fn send(&self, ask: impl FnOnce(&mut Messages)) {
        let mut messages = self.lock();
        if !self.ended.is_cancelled() {
            ask(&mut messages);
        }
        drop(messages);
        self.wake.notify_one();
    }
}

/// Lives on the thread: tells everybody when it ends, by a panic as well.
struct TellsEnd(Arc<Queue>);

impl Drop for TellsEnd {
    fn drop(&mut self) {
        let mut messages = self.0.lock();
        self.0.ended.cancel();
        let unread = std::mem::take(&mut *messages);
        messages.closed = true;
        drop(messages);
        drop(unread); // their senders learn of it
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
                let _end = TellsEnd(queue.clone());
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

    /// Cancelled when the thread has ended. It does so by itself only when the last handle is dropped.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.handle.queue.ended.clone()
    }

    /// Adds images to the batch.
    pub(crate) fn generate(&self, request: GenerationRequest) {
        self.handle.queue.send(|messages| messages.generations.push(request));
    }

    /// Runs work that takes a moment, without interruption.
    ///
    /// # Errors
    /// [`JobError::EnginePanicked`]
    pub(crate) async fn run_quick<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let (sender, answer) = oneshot::channel();
        let work: Quick = Box::new(move |engine| {
            // The receiver is gone if the worker was dropped; then the result is not needed.
            let _ = sender.send(work(engine));
        });
        self.handle.queue.send(|messages| messages.quick.push_back(work));
        answer.await.map_err(|_| JobError::EnginePanicked)
    }

    /// Runs work that takes minutes and lets other work use the device between its steps.
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

/// The work that uses the device between the steps of long work.
pub(crate) struct TimeSlices {
    queue: Arc<Queue>,
    batch: Batch,
    conditioner: Conditioner,
    share: FairShare,
    /// When the long work last got the device.
    resumed: Instant,
}

impl TimeSlices {
    /// Lets other work use the device for its fair share of the time, and returns whether to go on. Long work calls
    /// this between two steps.
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

    /// Does quick work and steps of the batch until there is long work. Returns `None` when all handles are gone.
    fn until_long(&mut self, engine: &Engine) -> Option<Long> {
        loop {
            self.batch.on_thread();
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

    /// Takes one step of the batch and accounts for its time.
    fn step(&mut self, engine: &Engine) {
        let began = Instant::now();
        let stepped =
            catch_unwind(AssertUnwindSafe(|| self.batch.step(engine, &mut self.conditioner)));
        if stepped.is_err() {
            // A bug of the batch and not of one image, so none of them can go on.
            tracing::error!("the running batch panicked");
            self.batch.abandon();
        }
        self.share.sampled(began.elapsed());
    }

    /// Adds new images to the batch, and does the quick work that waits.
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

/// A panic ends the work that caused it, not the thread. The work's sender is dropped, so its caller gets an error.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("work on the device panicked");
    }
}
