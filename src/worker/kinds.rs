//! The kinds of jobs: one file and one line each.

mod compression;
mod evaluation;
mod merge;
mod sample;
mod training;

use super::error::JobError;
use super::job::{Admission, Job, Kind};
use super::permits::Permits;
use crate::domain::job::{JobKind, Task};

/// Maps every kind to its implementation. The crate does not compile if a kind is missing.
macro_rules! kinds {
    ($($kind:ident => $implementation:ty,)+) => {
        /// How jobs of a kind are admitted.
        pub(super) fn admission(kind: JobKind) -> Admission {
            match kind {
                $(JobKind::$kind => <$implementation as Kind>::ADMISSION,)+
            }
        }

        /// Runs a job of any kind to its end.
        ///
        /// # Errors
        /// [`JobError::BaseModelMismatch`] for a task that was meant for another base model, and what its kind answers.
        pub(super) async fn run(job: &Job, task: Task, permits: Permits) -> Result<(), JobError> {
            job.context.check_base(task.base_digest())?;
            match task {
                $(Task::$kind(task) => <$implementation as Kind>::run(job, task, permits).await,)+
            }
        }
    };
}

kinds! {
    Training => training::Training,
    Merge => merge::Merge,
    Sample => sample::Sample,
    Evaluation => evaluation::Evaluation,
    Compression => compression::Compression,
}
