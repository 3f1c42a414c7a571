//! A running job, and the trait of a kind of job.

use super::context::Context;
use super::error::JobError;
use super::lease::Lease;
use super::permits::Permits;
use super::progress::Progress;

/// A job that this worker works on.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) context: Context,
    pub(crate) lease: Lease,
    pub(crate) progress: Progress,
}

/// How jobs of a kind are admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// One at a time.
    Exclusive,
    /// As many as there are permits for.
    ByPermits,
}

/// A kind of job: how it is admitted and how it runs.
pub(crate) trait Kind {
    /// What a job of this kind has to do.
    type Task;
    const ADMISSION: Admission;

    /// Runs a job to its end. When this returns, the result is written and the job has succeeded.
    ///
    /// A job may run twice, and stops at its next step when its progress says so.
    ///
    /// - `permits`: the job's share of the batch; none for an exclusive kind
    ///
    /// # Errors
    /// [`JobError`]; the caller records it.
    fn run(
        job: &Job,
        task: Self::Task,
        permits: Permits,
    ) -> impl Future<Output = Result<(), JobError>> + Send;
}
