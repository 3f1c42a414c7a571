//! Attempts at a job: how they end, and how long the next one waits.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Failure;
use crate::domain::code::Code;

/// An attempt that has ended without ending its job as succeeded or canceled.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Counted from 1.
    pub attempt: i32,
    pub worker: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: DateTime<Utc>,
    pub reason: Failure,
    /// The training step of the checkpoint that it went on from.
    pub resumed_from_step: Option<i32>,
    /// The last step that was reported.
    pub reached_step: Option<i32>,
}

impl Failure {
    /// The reason of an attempt whose worker stopped renewing its lease.
    pub fn worker_lost(worker: Option<&str>) -> Self {
        let worker = worker.unwrap_or("the worker");
        Self {
            title: "The worker was lost".to_owned(),
            code: Code::WorkerLost,
            detail: format!(
                "{worker} stopped renewing its lease: it was killed, lost its connection, or needed more memory than there is"
            ),
            retryable: true,
        }
    }

    /// The end of a job whose workers were lost, with the reason of each attempt.
    ///
    /// - `earlier`: the attempts before the last one, in order
    /// - `last`: the number of the last attempt and its reason
    pub fn workers_lost(earlier: &[Attempt], last: (i32, &Self)) -> Self {
        let earlier = earlier.iter().map(|attempt| (attempt.attempt, &attempt.reason));
        let reasons = earlier.chain([last]).map(|(attempt, reason)| {
            format!("attempt {attempt}: {} ({})", reason.detail, reason.code)
        });
        Self {
            title: "The worker was lost".to_owned(),
            code: Code::WorkerLost,
            detail: format!(
                "no attempt is left, and the last ones got no further; {}",
                reasons.collect::<Vec<_>>().join("; ")
            ),
            retryable: true,
        }
    }

    /// The reason of an attempt whose worker shut down in order.
    pub fn worker_stopped() -> Self {
        Self {
            title: "The worker was shut down".to_owned(),
            code: Code::WorkerStopped,
            detail: "the worker was shut down and returned the job to the queue".to_owned(),
            retryable: true,
        }
    }

    /// The reason of an attempt that an earlier version of the program ended without a reason.
    pub fn unknown() -> Self {
        Self {
            title: "Stopped".to_owned(),
            code: Code::Stopped,
            detail: "an earlier version of the program stopped the attempt and recorded no reason"
                .to_owned(),
            retryable: true,
        }
    }
}

const SHORTEST_SECS: f64 = 5.0;
const LONGEST_SECS: f64 = 600.0;

/// The jitter's share of a delay, to both sides.
const JITTER: f64 = 0.2;

/// How long a job waits after an attempt that failed: 10 s, 20 s, 40 s, … at most 10 min, ± 20 %.
///
/// - `barren_attempts`: attempts in a row that got no further, with this one
/// - `random`: from 0 to 1, so that jobs which failed together do not come back together
pub fn backoff(barren_attempts: i32, random: f64) -> Duration {
    let doubled = SHORTEST_SECS * 2f64.powi(barren_attempts.clamp(0, 30));
    let jitter = 1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0);
    Duration::from_secs_f64(doubled.min(LONGEST_SECS) * jitter)
}

/// How long a job waits after its worker was lost. The first time it does not wait: workers get lost for reasons that have
/// nothing to do with the job.
///
/// - `barren_attempts`, `random`: as for [`backoff`]
pub fn backoff_of_lost(barren_attempts: i32, random: f64) -> Duration {
    match barren_attempts {
        ..=1 => Duration::ZERO,
        2.. => backoff(barren_attempts, random),
    }
}

/// A random number from 0 to 1, for [`backoff`].
pub fn random() -> f64 {
    uuid::Uuid::new_v4().as_u64_pair().1 as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_ten_minutes() {
        let secs = |barren, random| backoff(barren, random).as_secs_f64().round() as i64;

        assert_eq!([1, 2, 3, 6].map(|barren| secs(barren, 0.5)), [10, 20, 40, 320]);
        assert_eq!((secs(9, 0.5), secs(i32::MAX, 0.5)), (600, 600));
        assert_eq!((secs(1, 0.0), secs(1, 1.0)), (8, 12));
    }

    #[test]
    fn the_first_lost_worker_costs_no_time() {
        assert_eq!(backoff_of_lost(1, 1.0), Duration::ZERO);
        assert_eq!(backoff_of_lost(0, 1.0), Duration::ZERO, "after a checkpoint");
        assert!(backoff_of_lost(2, 0.0) > Duration::from_secs(10));
    }
}
