//! The one thread that owns a device.
//!
//! The engine is synchronous and a device does one thing at a time, so all its work runs here; async code sends a
//! closure and waits for its answer. Quick work goes first, and is also let in between two steps of long work.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::error::JobError;
use super::model::Engine;

/// The engine recurses into deep graphs; threads of the runtime have too small a stack for that.
const STACK_BYTES: usize = 64 * 1024 * 1024;

type Work = Box<dyn FnOnce(&Engine, &Interludes) + Send>;

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
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    quick: VecDeque<Work>,
    long: VecDeque<Work>,
    closed: bool,
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Nothing panics while holding it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next work; `None` when all handles are gone.
    fn next(&self) -> Option<Work> {
        let mut waiting = self.lock();
        loop {
            if let Some(work) = waiting.quick.pop_front() {
                return Some(work);
            }
            if let Some(work) = waiting.long.pop_front() {
                return Some(work);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.wake.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Quick work that waits while long work runs.
pub(crate) struct Interludes {
    queue: Arc<Queue>,
}

impl Interludes {
    /// Does the quick work that waits now; long work calls this between two steps.
    pub(crate) fn run(&self, engine: &Engine) {
        loop {
            let work = self.queue.lock().quick.pop_front();
            let Some(work) = work else { return };
            run_one(work, engine, self);
        }
    }
}

impl Gpu {
    /// Starts the thread, which takes over the engine.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn start(engine: Engine) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let interludes = Interludes { queue: queue.clone() };
        let thread = std::thread::Builder::new().name("gpu".to_owned()).stack_size(STACK_BYTES);
        thread.spawn({
            let queue = queue.clone();
            move || {
                while let Some(work) = queue.next() {
                    run_one(work, &engine, &interludes);
                }
            }
        })?;
        Ok(Self { handle: Arc::new(Handle { queue }) })
    }

    /// Runs what takes seconds; lets nothing else in.
    pub(crate) async fn run_quick<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let (work, answer) = boxed(move |engine, _| work(engine));
        self.handle.queue.lock().quick.push_back(work);
        self.handle.queue.wake.notify_one();
        answer.await.map_err(|_| JobError::EnginePanicked)
    }

    /// Runs what takes minutes, and shall let quick work in between its steps.
    pub(crate) async fn run_long<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Engine, &Interludes) -> T + Send + 'static,
    ) -> Result<T, JobError> {
        let (work, answer) = boxed(work);
        self.handle.queue.lock().long.push_back(work);
        self.handle.queue.wake.notify_one();
        answer.await.map_err(|_| JobError::EnginePanicked)
    }
}

fn boxed<T: Send + 'static>(
    work: impl FnOnce(&Engine, &Interludes) -> T + Send + 'static,
) -> (Work, oneshot::Receiver<T>) {
    let (sender, receiver) = oneshot::channel();
    let work: Work = Box::new(move |engine, interludes| {
        // Nobody waits any more if the worker was dropped; the work is done for nothing then.
        let _ = sender.send(work(engine, interludes));
    });
    (work, receiver)
}

/// A panic ends the work that caused it, not the thread: its sender is dropped, which its waiter notices.
fn run_one(work: Work, engine: &Engine, interludes: &Interludes) {
    if catch_unwind(AssertUnwindSafe(|| work(engine, interludes))).is_err() {
        tracing::error!("work on the device panicked");
    }
}
