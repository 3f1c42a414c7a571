//! How a training and samples share the device's time: the fair share of each.

use std::time::Duration;

/// Keeps account of a training's time and of the samples' that are let in between its steps.
///
/// While samples wait, the training gets its share of the time and they get the rest, in whole steps: after each of the
/// training's steps they may use the time that it has earned them, and what the last of their steps takes beyond that
/// is owed to the training. Nothing is saved up while nobody waits.
#[derive(Debug)]
pub(crate) struct FairShare {
    /// Seconds that the samples gain by a second of training.
    rate: f64,
    /// Seconds that they may use; negative is owed.
    credit: f64,
}

impl FairShare {
    /// - `training`: fraction of the time, below 1
    pub(crate) fn new(training: f64) -> Self {
        Self { rate: (1.0 - training) / training, credit: 0.0 }
    }

    /// A training begins: what others have used before is not owed to it.
    pub(crate) fn begin(&mut self) {
        self.credit = 0.0;
    }

    /// The training has used the device.
    pub(crate) fn trained(&mut self, time: Duration) {
        self.credit += time.as_secs_f64().max(1e-9) * self.rate;
    }

    /// Samples have used it.
    pub(crate) fn sampled(&mut self, time: Duration) {
        self.credit -= time.as_secs_f64();
    }

    /// Whether they may take another step.
    pub(crate) fn is_samples_turn(&self) -> bool {
        self.credit > 0.0
    }

    /// No sample waits.
    pub(crate) fn nobody_waits(&mut self) {
        self.credit = self.credit.min(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The training's fraction over many of its steps, with samples always waiting, and how many of its steps lie between
    /// two of theirs at most.
    fn simulate(training: f64, train_ms: u64, sample_ms: u64) -> (f64, usize) {
        let mut share = FairShare::new(training);
        let (mut trained, mut sampled, mut gap, mut longest) = (0, 0, 0, 0);
        for _ in 0..10_000 {
            share.trained(Duration::from_millis(train_ms));
            (trained, gap) = (trained + train_ms, gap + 1);
            longest = longest.max(gap);
            while share.is_samples_turn() {
                share.sampled(Duration::from_millis(sample_ms));
                (sampled, gap) = (sampled + sample_ms, 0);
            }
        }
        (trained as f64 / (trained + sampled) as f64, longest)
    }

    #[test]
    fn each_gets_its_share_whatever_the_lengths_of_steps() {
        for training in [0.2, 0.5, 0.8] {
            for (train_ms, sample_ms) in [(200, 7), (200, 90), (50, 300)] {
                let (fraction, _) = simulate(training, train_ms, sample_ms);
                assert!((fraction - training).abs() < 0.01, "{fraction} instead of {training}");
            }
        }
    }

    #[test]
    fn a_sample_waits_for_few_training_steps() {
        assert_eq!(simulate(0.5, 200, 90).1, 1);
        assert_eq!(simulate(0.8, 200, 90).1, 2);
    }

    #[test]
    fn without_a_share_the_training_waits_for_all_samples() {
        let mut share = FairShare::new(0.0);
        share.trained(Duration::from_millis(1));
        share.sampled(Duration::from_secs(3600));
        assert!(share.is_samples_turn());
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let mut share = FairShare::new(0.5);
        share.trained(Duration::from_secs(3600));
        share.nobody_waits();
        assert!(!share.is_samples_turn());

        share.trained(Duration::from_millis(100));
        share.sampled(Duration::from_millis(100));
        assert!(!share.is_samples_turn());
    }
}
