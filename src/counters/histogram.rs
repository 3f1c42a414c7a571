//! Durations, counted by how long they were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The bounds of a histogram.
pub(super) const BOUNDS: usize = 11;

/// Counts durations up to each of some bounds, and sums them. It takes no lock.
#[derive(Debug)]
pub struct Histogram {
    /// In seconds, ascending.
    bounds: &'static [f64; BOUNDS],
    /// By the first bound that a duration does not exceed; the last one has those above all.
    counts: [AtomicU64; BOUNDS + 1],
    sum_micros: AtomicU64,
}

/// A histogram at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Each bound in seconds, and the number of durations that do not exceed it.
    pub up_to: Vec<(f64, u64)>,
    /// All of them.
    pub count: u64,
    pub sum_seconds: f64,
}

impl Histogram {
    /// - `bounds`: in seconds, ascending
    pub const fn new(bounds: &'static [f64; BOUNDS]) -> Self {
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; BOUNDS + 1],
            sum_micros: AtomicU64::new(0),
        }
    }

    /// Counts a duration.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let place = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS);
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let mut up_to = Vec::with_capacity(BOUNDS);
        for (index, counted) in self.counts.iter().enumerate() {
            count += counted.load(Ordering::Relaxed);
            if let Some(bound) = self.bounds.get(index) {
                up_to.push((*bound, count));
            }
        }
        let sum_seconds = self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        Snapshot { up_to, count, sum_seconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_below_every_bound_that_it_does_not_exceed() {
        static BOUNDS_OF_TEST: [f64; BOUNDS] =
            [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0];
        let histogram = Histogram::new(&BOUNDS_OF_TEST);

        for millis in [100, 101, 1500, 9000] {
            histogram.observe(Duration::from_millis(millis));
        }

        let Snapshot { up_to, count, sum_seconds } = histogram.snapshot();
        assert_eq!(
            (up_to[0], up_to[1], up_to[9], up_to[10]),
            ((0.1, 1), (0.2, 2), (1.0, 2), (2.0, 3))
        );
        assert_eq!(count, 4);
        assert!((sum_seconds - 10.701).abs() < 1e-9);
    }
}
