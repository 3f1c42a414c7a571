//! The bounded queue, from the side of the API.

use std::ops::RangeInclusive;
use std::time::Duration;

use sqlx::PgConnection;

use super::job::JobNoun;
use super::quota::Need;
use super::{App, Caller, Refusal};
use crate::db;
use crate::db::job::NewJob;
use crate::domain::id::JobId;
use crate::domain::job::cost::estimate;
use crate::domain::job::named::Named;
use crate::domain::job::schedule::{LAST_RANK, Schedule};
use crate::domain::job::{JobKind, Task};
use crate::domain::labelled::Labelled;
use crate::domain::record::Labels;
use crate::domain::warning::Warning;
use crate::request_context::RequestContext;

/// The shortest and the longest time after which a refused client is asked to send its request again, in seconds.
const RETRY_AFTER_SECS: RangeInclusive<u64> = 1..=300;

/// The same before the first job of a kind has ended, when the rate is not known.
const UNKNOWN_RETRY_AFTER_SECS: u64 = 30;

/// What a request asks for, resolved, with what it is accepted with.
#[derive(Clone, Debug)]
pub(super) struct Asked<N> {
    pub(super) task: N,
    pub(super) warnings: Vec<Warning>,
}

/// What a request says about a job beside its task.
#[derive(Clone, Debug, Default)]
pub struct JobOptions {
    pub schedule: Schedule,
    pub labels: Labels,
}

impl App {
    /// Appends a task to its queue. The caller announces it when the transaction has committed: [`App::announce`].
    ///
    /// # Errors
    /// [`Refusal::QueueFull`] if the queue of this kind is full, with the time in which a tenth of it will be done;
    /// [`Refusal::Conflict`] if the external id is taken, or if something that the task names has just been deleted.
    pub(super) async fn enqueue<N: JobNoun>(
        &self,
        tx: &mut PgConnection,
        caller: &Caller,
        asked: Asked<N>,
        options: &JobOptions,
    ) -> Result<N::Id, Refusal> {
        self.enqueue_waiting(tx, caller, asked, options, 0).await
    }

    /// Appends a task that waits for other jobs, which the caller queues in the same transaction.
    ///
    /// # Errors
    /// [`Refusal::QueueFull`]
    pub(super) async fn enqueue_waiting<N: JobNoun>(
        &self,
        tx: &mut PgConnection,
        caller: &Caller,
        asked: Asked<N>,
        options: &JobOptions,
        waits_for: usize,
    ) -> Result<N::Id, Refusal> {
        self.reserve(tx, caller, Need::Jobs(1 + waits_for)).await?;
        let job_id = JobId::generate();
        let Asked { task, warnings } = asked;
        self.claim_key(tx, N::Id::from(job_id)).await?;
        self.take_place(tx, N::KIND).await?;
        let task = task.into_task();
        hold_named(tx, &task).await?;
        let native_size = self.model.native_size;
        let elements = task.batch_elements(native_size);
        let new = NewJob::new(job_id, &task, elements, estimate(&task, native_size));
        let memory_bytes = match &task {
            Task::Training(training) => (self.model.training_memory)(&training.recipe),
            Task::Merge(_) | Task::Sample(_) | Task::Evaluation(_) | Task::Compression(_) => 0,
        };
        let project_id = caller.project_id();
        let (schedule, labels) = (options.schedule, Some(&options.labels));
        let request = RequestContext::current();
        let new = NewJob {
            schedule,
            waits_for,
            memory_bytes,
            project_id,
            labels,
            request_id: request.as_ref().map(|request| &*request.request_id),
            traceparent: request.as_ref().and_then(|request| request.traceparent.as_deref()),
            warnings: &warnings,
            ..new
        };
        match db::job::enqueue(&mut *tx, new).await {
            Ok(()) => Ok(job_id.into()),
            Err(error) => {
                let like = Labelled::Job(job_id, N::KIND);
                Err(self.refuse_taken_id(caller, like, &options.labels, error).await)
            }
        }
    }

    /// Tells idle workers of jobs that have been committed.
    pub(super) fn announce(&self, kind: JobKind) {
        self.announcer.announce(kind);
    }

    /// Refuses if the queue of this kind is full. What it has counted stays true until the transaction ends.
    async fn take_place(&self, tx: &mut PgConnection, kind: JobKind) -> Result<(), Refusal> {
        db::job::take_turn(&mut *tx, kind).await?;
        let queued = db::job::count_queued(&mut *tx, kind, LAST_RANK).await?;
        if usize::try_from(queued).unwrap_or(0) >= self.queue_limit {
            return Err(self.queue_full(tx, kind).await?);
        }
        Ok(())
    }

    async fn queue_full(&self, tx: &mut PgConnection, kind: JobKind) -> sqlx::Result<Refusal> {
        let limit = self.queue_limit;
        let tenth = limit.div_ceil(10) as f64;
        let seconds = match db::job::rate(tx, kind).await? {
            Some(per_second) if per_second > 0.0 => (tenth / per_second).ceil() as u64,
            Some(_) | None => UNKNOWN_RETRY_AFTER_SECS,
        };
        let seconds = seconds.clamp(*RETRY_AFTER_SECS.start(), *RETRY_AFTER_SECS.end());
        Ok(Refusal::QueueFull { kind, limit, retry_after: Duration::from_secs(seconds) })
    }
}

/// Keeps what a task names from being deleted until its job is there. Then its objects stay until the job has ended.
async fn hold_named(tx: &mut PgConnection, task: &Task) -> Result<(), Refusal> {
    let Named { concepts, deltas, images } = Named::in_task(task);
    let count = concepts.len() + deltas.len() + images.len();
    let held = db::removal::hold(&mut *tx, &concepts, &deltas, &images).await?;
    if usize::try_from(held).is_ok_and(|held| held == count) {
        return Ok(());
    }
    Err(Refusal::deleted_meanwhile())
}
