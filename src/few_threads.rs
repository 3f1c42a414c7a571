//! A few threads for work that takes much memory for a moment, such as decoding an image.
//!
//! The allocator keeps what a thread has freed, for that thread, for a while. Under load, tokio's threads for blocking work become
//! hundreds; if each of them has decoded one image, all of them keep the memory of one. Here there are as many threads as
//! cores, and more would not be faster.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

static THREADS: LazyLock<ThreadPool> = LazyLock::new(|| {
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let threads = ThreadPoolBuilder::new().num_threads(threads);
    threads.thread_name(|index| format!("files-{index}")).build().expect("threads can be started")
});

/// Runs the work as soon as one of the threads is free.
///
/// # Errors
/// The payload of its panic.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::thread::Result<T> {
    let (done, result) = tokio::sync::oneshot::channel();
    THREADS.spawn(move || {
        // A panic in a thread of the pool would end the process. Nobody is left to read if the future was dropped.
        let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
    });
    match result.await {
        Ok(result) => result,
        Err(closed) => Err(Box::new(closed.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_on_few_threads_and_a_panic_is_its_own() {
        let mut names = std::collections::HashSet::new();
        let works = (0..64).map(|_| run(|| std::thread::current().name().map(str::to_owned)));
        for name in futures::future::join_all(works).await {
            names.insert(name.unwrap());
        }
        let cores = std::thread::available_parallelism().unwrap().get().max(2);
        assert!((1..=cores).contains(&names.len()), "{names:?}");

        assert!(run(|| panic!("one")).await.is_err());
        assert_eq!(run(|| 2).await.unwrap(), 2);
    }
}
