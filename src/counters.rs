//! What this process has counted and measured since it began, for its log and for metrics.

mod histogram;
mod requests;

use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{Histogram, Snapshot};
pub use requests::{REQUESTS, RequestCounters, RouteCounts};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one and returns the sum.
    pub fn count(&self) -> u64 {
        self.add(1)
    }

    /// Adds some and returns the sum.
    pub fn add(&self, some: u64) -> u64 {
        self.0.fetch_add(some, Ordering::Relaxed) + some
    }

    /// Replaces the number. Only for what does not grow, such as a size.
    pub fn set(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
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
    leases_lost: Counter::new(),
    writes_fenced_off: Counter::new(),
    jobs_taken_back: Counter::new(),
    deadlines_missed: Counter::new(),
};

/// What a worker of this process does.
#[derive(Debug)]
pub struct WorkCounters {
    /// Statements that claim jobs, whether they found some or not.
    pub claims: Histogram,
    /// From the request for a job to its first start. Evaluations are left out: they wait for their samples.
    pub waits: Histogram,
    /// Optimizer steps of trainings, without what samples did in between.
    pub training_steps: Histogram,
    /// Steps of the running batch, whatever its size.
    pub denoising_steps: Histogram,
    /// Elements of the batch that took those steps, summed.
    pub denoised_elements: Counter,
    /// The largest batch, in elements; 0 without a worker.
    pub max_batch_elements: Counter,
    pub jobs_succeeded: Counter,
    pub jobs_failed: Counter,
    /// Jobs that failed an attempt and are tried again.
    pub jobs_retried: Counter,
    /// Jobs that stopped because they were canceled or the worker ended.
    pub jobs_stopped: Counter,
}

/// Those of this process.
pub static WORK: WorkCounters = WorkCounters {
    claims: Histogram::new(&FAST),
    waits: Histogram::new(&SLOW),
    training_steps: Histogram::new(&STEPS),
    denoising_steps: Histogram::new(&STEPS),
    denoised_elements: Counter::new(),
    max_batch_elements: Counter::new(),
    jobs_succeeded: Counter::new(),
    jobs_failed: Counter::new(),
    jobs_retried: Counter::new(),
    jobs_stopped: Counter::new(),
};

/// Bounds for what takes milliseconds, in seconds.
const FAST: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Bounds for steps of a network, in seconds.
const STEPS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bounds for what people wait for, in seconds.
const SLOW: [f64; 11] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

/// Which lookups a cache could answer.
#[derive(Debug)]
pub struct CacheCounters {
    /// The cache, as a metric calls it.
    pub name: &'static str,
    pub hits: Counter,
    pub misses: Counter,
}

impl CacheCounters {
    const fn new(name: &'static str) -> Self {
        Self { name, hits: Counter::new(), misses: Counter::new() }
    }

    /// Counts a lookup.
    pub fn note(&self, is_hit: bool) {
        if is_hit {
            self.hits.count()
        } else {
            self.misses.count()
        };
    }
}

pub static DELTAS: CacheCounters = CacheCounters::new("deltas");
pub static MERGE_PACKS: CacheCounters = CacheCounters::new("merge_packs");
pub static STATISTICS: CacheCounters = CacheCounters::new("regularization_statistics");
pub static MERGE_REPORTS: CacheCounters = CacheCounters::new("merge_reports");
pub static KEY_VALUES: CacheCounters = CacheCounters::new("key_values");
pub static TEXT_INDEXES: CacheCounters = CacheCounters::new("text_indexes");
pub static THUMBNAILS: CacheCounters = CacheCounters::new("thumbnails");

/// Every cache.
pub static CACHES: [&CacheCounters; 7] =
    [&DELTAS, &MERGE_PACKS, &STATISTICS, &MERGE_REPORTS, &KEY_VALUES, &TEXT_INDEXES, &THUMBNAILS];

/// What the sender of webhooks of this process does.
#[derive(Debug)]
pub struct WebhookCounters {
    /// Requests to receivers, to the end of the answer.
    pub attempts: Histogram,
    pub delivered: Counter,
    /// Attempts that failed, whether there is a further one or not.
    pub failed: Counter,
    pub endpoints_disabled: Counter,
}

/// Those of this process.
pub static WEBHOOKS: WebhookCounters = WebhookCounters {
    attempts: Histogram::new(&STEPS),
    delivered: Counter::new(),
    failed: Counter::new(),
    endpoints_disabled: Counter::new(),
};
