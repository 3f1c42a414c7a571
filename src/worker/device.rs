//! The one thread that owns a device.
//!
//! The engine is synchronous and a device does one thing at a time, so all its work runs here; async code reaches it by
//! message. Samples go through one running batch. Work that takes minutes lets the batch, and work that takes a moment,
//! in between its own steps, by the stated share of the device's time.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::batch::{Batch, Drawing};
use super::conditioner::Conditioner;
use super::engine::Engine;
use super::error::JobError;
use super::fair_share::Share;

/// The engine recurses into deep graphs; threads of the runtime have too small a stack for that.
const STACK_BYTES: usize = 64 * 1024 * 1024;

type Quick = Box<dyn FnOnce(&Engine) + Send>;
type Long = Box<dyn FnOnce(&Engine, &mut Interludes) + Send>;

/// How the device's time and memory are shared out.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    /// Rows of one call of the UNet, guidance rows counted.
    pub(crate) row_budget: usize,
    /// Fraction of the device's time that a training has while samples wait.
    pub(crate) training_share: f64,
    /// Memory for kept K and V.
    pub(crate) conditioning_bytes: usize,
}

/// A handle to the thread; it ends when the last handle is dropped.
#[derive(Clone)]
pub struct Gpu {
    handle: Arc<Handle>,
}

struct Handle {
    queue: Arc<Queue>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.wake.notify_all();
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
    drawings: Vec<Drawing>,
    quick: VecDeque<Quick>,
    long: VecDeque<Long>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Messages> {
        // Nothing panics while holding it.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, ask: impl FnOnce(&mut Messages)) {
        ask(&mut self.lock());
        self.wake.notify_one();
    }
}

impl Gpu {
    /// Starts the thread, which takes over the engine.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub(crate) fn start(engine: Engine, sharing: Sharing) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let thread = std::thread::Builder::new().name("gpu".to_owned()).stack_size(STACK_BYTES);
        thread.spawn({
            let queue = queue.clone();
            move || {
                let mut interludes = Interludes {
                    queue,
                    batch: Batch::new(sharing.row_budget),
                    conditioner: Conditioner::new(sharing.conditioning_bytes),
                    share: Share::new(sharing.training_share),
                    left: Instant::now(),
                };
                while let Some(work) = interludes.until_long(&engine) {
                    guarded(|| work(&engine, &mut interludes));
                }
            }
        })?;
        Ok(Self { handle: Arc::new(Handle { queue }) })
    }

    /// Adds pictures to the batch.
    pub(crate) fn draw(&self, drawing: Drawing) {
        self.handle.queue.send(|messages| messages.drawings.push(drawing));
    }

    /// Runs what takes a moment; lets nothing else in.
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
    pub(crate) async fn run_long<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, &mut Interludes) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let (sender, answer) = oneshot::channel();
        let work: Long = Box::new(move |engine, interludes| {
            let _ = sender.send(work(engine, interludes));
        });
        self.handle.queue.send(|messages| messages.long.push_back(work));
        answer.await.map_err(|_| JobError::EnginePanicked)
    }
}

/// All that goes on beside long work.
pub(crate) struct Interludes {
    queue: Arc<Queue>,
    batch: Batch,
    conditioner: Conditioner,
    share: Share,
    /// When the long work had the device again.
    left: Instant,
}

impl Interludes {
    /// Lets others at the device for as long as is their due; long work calls this between two steps.
    pub(crate) fn run(&mut self, engine: &Engine) {
        self.share.trained(self.left.elapsed());
        loop {
            self.take_messages(engine);
            if self.batch.is_empty() {
                self.share.nobody_waits();
                break;
            }
            if !self.share.samples_turn() {
                break;
            }
            self.step(engine);
        }
        self.left = Instant::now();
    }

    /// Does everything else until there is long work; `None` when all handles are gone.
    fn until_long(&mut self, engine: &Engine) -> Option<Long> {
        loop {
            self.take_messages(engine);
            let mut messages = self.queue.lock();
            if let Some(long) = messages.long.pop_front() {
                drop(messages);
                self.share.begin();
                self.left = Instant::now();
                return Some(long);
            }
            if self.batch.is_empty() {
                let idle = |messages: &Messages| {
                    let Messages { drawings, quick, long, closed } = messages;
                    drawings.is_empty() && quick.is_empty() && long.is_empty() && !closed
                };
                if messages.closed {
                    return None;
                }
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

    /// Takes new pictures into the batch, and does the quick work that waits.
    fn take_messages(&mut self, engine: &Engine) {
        loop {
            let (drawings, quick) = {
                let mut messages = self.queue.lock();
                (std::mem::take(&mut messages.drawings), messages.quick.pop_front())
            };
            drawings.into_iter().for_each(|drawing| self.batch.add(drawing));
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
