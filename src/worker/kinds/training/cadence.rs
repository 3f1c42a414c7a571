//! When a training takes checkpoints: so often that they cost at most a fiftieth of its time.

use std::time::{Duration, Instant};

/// A checkpoint is followed by this many times as long without one: 2 % of the time.
const SPARING: u32 = 50;
/// However little they cost. More would not save more than a second of work.
const SHORTEST: Duration = Duration::from_secs(1);

/// Decides after each step whether a checkpoint is due.
#[derive(Clone, Debug)]
pub(super) struct Cadence {
    /// A fixed number of steps instead of a share of the time.
    every: Option<usize>,
    last_step: usize,
    last_at: Instant,
    pause: Duration,
    /// One is being written.
    writing: bool,
}

impl Cadence {
    /// - `step`: where the training begins
    pub(super) fn new(every: Option<usize>, step: usize, now: Instant) -> Self {
        Self { every, last_step: step, last_at: now, pause: SHORTEST, writing: false }
    }

    /// Whether to take one after `step`. While one is written, no other is taken.
    pub(super) fn is_due(&self, step: usize, now: Instant) -> bool {
        let is_time = match self.every {
            Some(every) => step >= self.last_step + every,
            None => now.saturating_duration_since(self.last_at) >= self.pause,
        };
        is_time && !self.writing && step > self.last_step
    }

    pub(super) fn begin(&mut self, step: usize, now: Instant) {
        (self.last_step, self.last_at, self.writing) = (step, now, true);
    }

    /// - `cost`: the time that the training has lost to it
    pub(super) fn end(&mut self, cost: Duration) {
        self.writing = false;
        self.pause = SHORTEST.max(SPARING * cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// How much of the time goes to checkpoints that cost `cost` each, over many steps.
    fn share(cost: Duration) -> f64 {
        let began = Instant::now();
        let mut cadence = Cadence::new(None, 0, began);
        let (mut now, mut spent) = (began, Duration::ZERO);
        for step in 1..100_000 {
            now += STEP;
            if cadence.is_due(step, now) {
                cadence.begin(step, now);
                now += cost;
                spent += cost;
                cadence.end(cost);
            }
        }
        spent.as_secs_f64() / (now - began).as_secs_f64()
    }

    #[test]
    fn checkpoints_take_a_fiftieth_of_the_time_however_large_they_are() {
        for cost in [1, 20, 400, 5_000].map(Duration::from_millis) {
            let share = share(cost);

            // The time after the last checkpoint is not over yet.
            assert!(share <= 0.0206, "{cost:?}: {share}");
            let sparing = 0.9 * (cost.as_secs_f64() / (cost.as_secs_f64() + 1.0)).min(0.02);
            assert!(share >= sparing, "{cost:?}: {share}, too seldom");
        }
    }

    #[test]
    fn none_is_taken_while_one_is_written_or_twice_at_one_step() {
        let began = Instant::now();
        let mut cadence = Cadence::new(Some(10), 40, began);
        assert_eq!([49, 50, 51].map(|step| cadence.is_due(step, began)), [false, true, true]);

        cadence.begin(50, began);
        assert!(!cadence.is_due(60, began));
        cadence.end(Duration::from_secs(1));
        assert_eq!([50, 59, 60].map(|step| cadence.is_due(step, began)), [false, false, true]);
    }
}
