//! How many rows of the batch are spoken for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The batch's rows as the queue sees them: taken when a job is leased, free again as its pictures are done.
#[derive(Debug)]
pub(crate) struct Slots {
    budget: usize,
    taken: AtomicUsize,
    freed: Notify,
}

impl Slots {
    pub(crate) fn new(budget: usize) -> Arc<Self> {
        Arc::new(Self { budget, taken: AtomicUsize::new(0), freed: Notify::new() })
    }

    /// Rows that further jobs can fill.
    pub(crate) fn room(&self) -> usize {
        self.budget.saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Takes rows, which a job with many pictures may do beyond what there is: they go one after another then.
    pub(crate) fn take(self: &Arc<Self>, rows: usize) -> Seat {
        self.taken.fetch_add(rows, Ordering::Relaxed);
        Seat { slots: self.clone(), rows }
    }

    /// Returns when rows have become free, be it since the last call.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

/// A job's rows; they are free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    slots: Arc<Slots>,
    rows: usize,
}

impl Seat {
    /// Gives some rows back early.
    pub(crate) fn release(&mut self, rows: usize) {
        let rows = rows.min(self.rows);
        self.rows -= rows;
        self.slots.taken.fetch_sub(rows, Ordering::Relaxed);
        self.slots.freed.notify_one();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.release(self.rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_once() {
        let slots = Slots::new(8);
        let mut large = slots.take(10);
        assert_eq!(slots.room(), 0);

        large.release(4);
        assert_eq!(slots.room(), 2);
        large.release(100);
        drop(large);

        assert_eq!(slots.room(), 8);
    }
}
