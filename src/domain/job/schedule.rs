//! When a job should run: its priority and its deadlines.

use std::ops::RangeInclusive;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Failure;
use crate::domain::code::Code;
use crate::domain::invalid::{Checks, Invalid};

/// How urgent a job is. Within one kind, all jobs of a higher priority run first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    /// The priority in the catalog: jobs with a smaller one run first.
    pub fn rank(self) -> i16 {
        match self {
            Self::High => -1,
            Self::Normal => 0,
            Self::Low => 1,
        }
    }

    /// The rank of an evaluation's samples, with the priority of the evaluation: after all jobs that somebody waits for.
    pub fn rank_of_samples(self) -> i16 {
        LAST_RANK + 2 + self.rank()
    }

    /// The priority of a rank; `low` for samples of evaluations.
    pub fn from_rank(rank: i16) -> Self {
        match rank {
            ..0 => Self::High,
            0 => Self::Normal,
            1.. => Self::Low,
        }
    }
}

/// The largest rank of jobs that somebody waits for.
pub const LAST_RANK: i16 = 1;

/// What a deadline can be, in seconds: a second to a year.
pub const DEADLINES: RangeInclusive<u64> = 1..=31_536_000;

/// When a job should run, as a request asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    pub priority: Priority,
    /// The job fails if no worker has started it by then.
    pub start_within_seconds: Option<u64>,
    /// The job fails if it has not ended by then.
    pub finish_within_seconds: Option<u64>,
}

impl Schedule {
    /// Refuses deadlines out of their bounds.
    pub fn check(&self) -> Result<(), Invalid> {
        let mut checks = Checks::default();
        for (seconds, pointer) in [
            (self.start_within_seconds, "/start_within_seconds"),
            (self.finish_within_seconds, "/finish_within_seconds"),
        ] {
            if let Some(seconds) = seconds {
                checks.in_range(seconds, DEADLINES, pointer);
            }
        }
        checks.finish()
    }
}

/// A deadline of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    Start(DateTime<Utc>),
    Finish(DateTime<Utc>),
}

impl Failure {
    /// The end of a job that missed a deadline.
    pub fn deadline_exceeded(deadline: Deadline) -> Self {
        let detail = match deadline {
            Deadline::Start(at) => format!(
                "no worker had started the job by {}, as start_within_seconds asked",
                at.to_rfc3339_opts(SecondsFormat::Secs, true)
            ),
            Deadline::Finish(at) => format!(
                "the job had not ended by {}, as finish_within_seconds asked",
                at.to_rfc3339_opts(SecondsFormat::Secs, true)
            ),
        };
        let title = "A deadline was missed".to_owned();
        Self { title, code: Code::DeadlineExceeded, detail, retryable: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_evaluations_rank_behind_all_others() {
        let all = [Priority::High, Priority::Normal, Priority::Low];

        let ranks = all.map(Priority::rank);
        let of_samples = all.map(Priority::rank_of_samples);

        assert_eq!((ranks, of_samples), ([-1, 0, 1], [2, 3, 4]));
        assert_eq!(ranks.map(Priority::from_rank), all);
        assert_eq!(Priority::from_rank(3), Priority::Low);
    }

    #[test]
    fn deadlines_are_bounded_inclusively() {
        let check = |seconds| {
            let schedule = Schedule { finish_within_seconds: Some(seconds), ..Schedule::default() };
            schedule.check().map_err(|invalid| invalid.to_string())
        };
        assert_eq!((check(1), check(86_400), check(31_536_000)), (Ok(()), Ok(()), Ok(())));
        for out in [0, 31_536_001, 1 << 31, 1 << 53, u64::MAX] {
            let detail = check(out).unwrap_err();
            assert!(detail.ends_with("is outside 1 to 31536000"), "{detail}");
        }
    }
}
