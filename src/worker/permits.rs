//! How much of the batch is spoken for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The batch's elements as the queue sees them: taken when a job is leased, free again as its images are done.
///
/// A job with many images may take more than there are, and then nothing else is let in until it is down to the last of
/// them. A semaphore counts only what there is, so it would let others in too early.
#[derive(Debug)]
pub(crate) struct PermitPool {
    capacity: usize,
    taken: AtomicUsize,
    released: Notify,
}

impl PermitPool {
    /// - `capacity`: elements of a batch
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, taken: AtomicUsize::new(0), released: Notify::new() })
    }

    /// Permits that further jobs can take.
    pub(crate) fn available(&self) -> usize {
        self.capacity.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Takes permits, be it more than there are.
    pub(crate) fn take(self: &Arc<Self>, count: usize) -> Permits {
        self.taken.fetch_add(count, Ordering::Relaxed);
        Permits { pool: Some(self.clone()), count }
    }

    /// Returns when permits have been released, be it since the last call.
    pub(crate) async fn released(&self) {
        self.released.notified().await;
    }
}

/// A job's permits; they go back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permits {
    pool: Option<Arc<PermitPool>>,
    count: usize,
}

impl Permits {
    /// Those of a job that needs none.
    pub(crate) fn none() -> Self {
        Self { pool: None, count: 0 }
    }

    /// Gives some back early.
    pub(crate) fn release(&mut self, count: usize) {
        let count = count.min(self.count);
        self.count -= count;
        if let Some(pool) = &self.pool {
            pool.taken.fetch_sub(count, Ordering::Relaxed);
            pool.released.notify_one();
        }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.release(self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back_once() {
        let pool = PermitPool::new(8);
        let mut large = pool.take(10);
        assert_eq!(pool.available(), 0);

        large.release(4);
        assert_eq!(pool.available(), 2);
        large.release(100);
        drop(large);

        assert_eq!(pool.available(), 8);
    }

    #[test]
    fn whoever_takes_more_than_there_are_keeps_others_out_until_the_last_of_them() {
        let pool = PermitPool::new(8);
        let mut large = pool.take(32);

        large.release(24);
        assert_eq!(pool.available(), 0);
        large.release(2);

        assert_eq!(pool.available(), 2);
    }
}
