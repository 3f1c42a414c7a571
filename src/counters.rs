//! What this process has counted since it began, for its log and for metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one and returns the sum.
    pub fn count(&self) -> u64 {
        self.add(1)
    }

    /// Adds some and returns the sum.
    pub fn add(&self, some: u64) -> u64 {
        self.0.fetch_add(some, Ordering::Relaxed) + some
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What happens to jobs beside success.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Jobs that a worker of this process dropped, because its lease had been taken away.
    pub leases_lost: Counter,
    /// Ends of jobs that such a worker tried to write, and that the fence kept out.
    pub writes_fenced_off: Counter,
    /// Jobs that this process took back from workers that stopped renewing.
    pub jobs_taken_back: Counter,
    /// Jobs that this process ended because they missed a deadline.
    pub deadlines_missed: Counter,
}

/// Those of this process.
pub static QUEUE: QueueCounters = QueueCounters {
    leases_lost: Counter(AtomicU64::new(0)),
    writes_fenced_off: Counter(AtomicU64::new(0)),
    jobs_taken_back: Counter(AtomicU64::new(0)),
    deadlines_missed: Counter(AtomicU64::new(0)),
};
