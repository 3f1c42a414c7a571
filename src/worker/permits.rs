//! Permits for the elements of the batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The batch's elements, as permits. They are taken when a job is leased and released as its images are finished.
///
/// A job with many images may take more permits than there are. Then no other job is admitted until it has released
/// enough of them. A semaphore cannot go below zero, so it would admit others too early.
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

    /// Elements of a batch.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Permits that further jobs can take.
    pub(crate) fn available(&self) -> usize {
        self.capacity.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Takes permits, even more than there are.
    pub(crate) fn take(self: &Arc<Self>, count: usize) -> Permits {
        self.taken.fetch_add(count, Ordering::Relaxed);
        Permits { pool: Some(self.clone()), count }
    }

    /// Returns when permits have been released since the last call.
    pub(crate) async fn released(&self) {
        self.released.notified().await;
    }
}

/// A job's permits, released when this is dropped.
#[derive(Debug)]
pub(crate) struct Permits {
    pool: Option<Arc<PermitPool>>,
    count: usize,
}

impl Permits {
    /// The permits of a job that needs none.
    pub(crate) fn none() -> Self {
        Self { pool: None, count: 0 }
    }

    /// Releases some of them early.
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
