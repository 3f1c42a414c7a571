//! A job in hand, and what a kind of job is.

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

/// How jobs of a kind are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// One at a time.
    Exclusive,
    /// As many as there are permits for.
    ByPermits,
}

/// What there is to know about a kind of job.
pub(crate) trait Kind {
    /// What a job of this kind has to do.
    type Task;
    const ADMISSION: Admission;

    /// Brings a job to its end: its result is written and the job has succeeded when this returns.
    ///
    /// A job may run twice, and stops at its next step when its progress says so.
    ///
    /// - `permits`: what the job holds of the batch; none for a kind of which one runs at a time
    ///
    /// # Errors
    /// [`JobError`]; the caller records it.
    fn run(
        job: &Job,
        task: Self::Task,
        permits: Permits,
    ) -> impl Future<Output = Result<(), JobError>> + Send;
}
