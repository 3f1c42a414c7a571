//! Takes back the jobs of workers that were lost, and ends those that missed a deadline.
//!
//! It runs in every process, so that jobs end although no worker is left. Processes take turns under an advisory lock.

use std::time::{Duration, Instant};

use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::counters::QUEUE;
use crate::db;
use crate::db::job::{ExpiredJob, TakenBack};
use crate::domain::id::JobId;
use crate::domain::job::attempt::{Attempt, backoff_of_lost, random};
use crate::domain::job::{Failure, JobKind, JobState, published_id};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Jobs per transaction.
const BATCH: i64 = 500;

/// Looks after jobs that nobody works on any more.
#[derive(Clone, Debug)]
pub struct Reaper {
    db: PgPool,
    /// The time for which workers lease their jobs.
    lease: Duration,
}

impl Reaper {
    pub fn new(db: PgPool, lease: Duration) -> Self {
        Self { db, lease }
    }

    /// Looks every two seconds until `shutdown` is cancelled.
    ///
    /// A lease that ran out says nothing about its worker if the database was away: then the worker could not renew it. So
    /// jobs are taken back only after the database could be reached for as long as a lease lasts.
    ///
    /// - `when_queued`: called after jobs came back to the queue
    pub async fn run(self, when_queued: impl Fn(), shutdown: CancellationToken) {
        let mut reach = Reach::default();
        loop {
            match self.look(&mut reach).await {
                Ok(true) => when_queued(),
                Ok(false) => {}
                Err(error) => {
                    reach = Reach::Broken;
                    tracing::warn!(%error, "jobs of dead workers cannot be looked for");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Returns whether jobs came back to the queue.
    async fn look(&self, reach: &mut Reach) -> sqlx::Result<bool> {
        let server_is_up = db::job::server_is_up_for(&self.db, self.lease).await?;
        let now = Instant::now();
        reach.note_success(now);
        fail_overdue(&self.db).await?;
        if !server_is_up || !reach.lasts(self.lease, now) {
            return Ok(false);
        }
        Ok(take_back_expired(&self.db)
            .await?
            .into_iter()
            .any(|(_, state)| state == JobState::Queued))
    }
}

/// Since when the database could be reached.
#[derive(Clone, Copy, Debug, Default)]
enum Reach {
    /// Since before this process began, as far as is known.
    #[default]
    Always,
    /// It could not the last time.
    Broken,
    Since {
        first: Instant,
        last: Instant,
    },
}

impl Reach {
    fn note_success(&mut self, now: Instant) {
        *self = match *self {
            Self::Always => Self::Always,
            // A statement that waited for long, or a process that was stopped, is an outage as well.
            Self::Since { first, last } if now - last < 3 * INTERVAL => {
                Self::Since { first, last: now }
            }
            Self::Broken | Self::Since { .. } => Self::Since { first: now, last: now },
        };
    }

    fn lasts(&self, duration: Duration, now: Instant) -> bool {
        match self {
            Self::Always => true,
            Self::Broken => false,
            Self::Since { first, .. } => now - *first >= duration,
        }
    }
}

/// Takes back the jobs whose leases have run out: they are queued again, or end if they were asked to stop or have no attempts
/// left. Returns each with its new state; none if another process is at it.
///
/// # Errors
/// If the database cannot be reached; then nothing has changed.
pub async fn take_back_expired(db: &PgPool) -> sqlx::Result<Vec<(JobId, JobState)>> {
    let mut tx = db.begin().await?;
    if !db::job::take_reapers_turn(&mut *tx).await? {
        return Ok(Vec::new());
    }
    let expired = db::job::lock_expired(&mut *tx, BATCH).await?;
    if expired.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<JobId> = expired.iter().map(|job| job.job_id).collect();
    let mut attempts = db::attempt::of_jobs(&mut *tx, &ids).await?;
    let lost: Vec<TakenBack> = expired
        .iter()
        .map(|job| decide(job, &attempts.remove(&job.job_id).unwrap_or_default()))
        .collect();
    let taken = db::job::take_back(&mut *tx, &lost).await?;
    tx.commit().await?;
    for (job_id, state) in &taken {
        let taken_back = QUEUE.jobs_taken_back.count();
        let job = expired.iter().find(|job| job.job_id == *job_id);
        let worker = job.and_then(|job| job.worker.as_deref());
        let id = job.map(|job| published_id(job.job_id, job.kind));
        tracing::warn!(
            id,
            worker,
            ?state,
            taken_back,
            "took back a job of a worker that stopped answering"
        );
        if *state == JobState::Failed && job.is_some_and(|job| job.kind == JobKind::Sample) {
            db::evaluation::cancel_siblings(db, *job_id).await?;
        }
    }
    Ok(taken)
}

/// How a job goes on.
fn decide(job: &ExpiredJob, earlier: &[Attempt]) -> TakenBack {
    let reason = Failure::worker_lost(job.worker.as_deref());
    let is_last = job.barren_attempts >= job.max_attempts;
    TakenBack {
        job_id: job.job_id,
        failure: is_last.then(|| Failure::workers_lost(earlier, (job.attempts, &reason))),
        delay: backoff_of_lost(job.barren_attempts, random()),
        reason,
    }
}

/// Fails the jobs that have missed a deadline, whether a worker has them or not. Returns each with its new state.
///
/// # Errors
/// If the database cannot be reached; then the rest are left for the next time.
pub async fn fail_overdue(db: &PgPool) -> sqlx::Result<Vec<(JobId, JobState)>> {
    let mut ended = Vec::new();
    for job in db::job::overdue(db, BATCH).await? {
        let failure = Failure::deadline_exceeded(job.deadline);
        let mut tx = db.begin().await?;
        if job.kind == JobKind::Evaluation {
            // Before the evaluation, as a sample's end locks them in this order.
            db::evaluation::cancel_samples(&mut *tx, job.job_id).await?;
        }
        let Some(state) = db::job::fail_overdue(&mut *tx, job.job_id, &failure).await? else {
            continue;
        };
        tx.commit().await?;
        QUEUE.deadlines_missed.count();
        let id = published_id(job.job_id, job.kind);
        tracing::info!(id, ?state, detail = failure.detail, "missed its deadline");
        ended.push((job.job_id, state));
    }
    Ok(ended)
}

/// Takes back all running jobs. Only for a process that knows that no worker is left, such as one that has started the only
/// server of its database.
///
/// # Errors
/// As for [`take_back_expired`].
pub async fn take_back_all(db: &PgPool) -> sqlx::Result<()> {
    db::job::expire_leases(db).await?;
    while !take_back_expired(db).await?.is_empty() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_back_before_the_database_was_there_for_a_lease() {
        let lease = Duration::from_secs(15);
        let mut now = Instant::now();
        let mut reach = Reach::default();
        reach.note_success(now);
        assert!(reach.lasts(lease, now), "a process that starts does not wait");

        reach = Reach::Broken;
        assert!(!reach.lasts(lease, now));
        let broken = now;
        while !reach.lasts(lease, now) {
            now += INTERVAL;
            reach.note_success(now);
        }
        assert_eq!(
            (now - broken).as_secs(),
            18,
            "the first success, and 15 s rounded up to intervals"
        );

        now += 4 * INTERVAL;
        reach.note_success(now);
        assert!(!reach.lasts(lease, now), "the process was stopped");
    }
}
