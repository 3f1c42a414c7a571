//! Waiting for a job: for its end, for its next change, and for its events as they happen.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::watch;

use super::{JobNoun, Tracked};
use crate::app::watch::Seen;
use crate::app::{App, Caller, Refusal};
use crate::db;
use crate::db::job::Standing;
use crate::domain::id::JobId;
use crate::domain::job::{Job, JobEvent};

/// Events per query.
const EVENT_BATCH: i64 = 200;

impl App {
    /// Waits until a job ends, but no longer than `within`, and not while the service shuts down.
    pub async fn wait<N: JobNoun>(
        &self,
        caller: &Caller,
        tracked: Tracked<N>,
        within: Duration,
    ) -> Result<Tracked<N>, Refusal> {
        if within.is_zero() || tracked.job.status().is_terminal() {
            return Ok(tracked);
        }
        let has_ended = |job: Standing| job.status.is_terminal();
        self.wait_until(tracked.job.job_id, standing_of(&tracked.job), within, has_ended).await;
        self.job(caller, tracked.id()).await
    }

    /// Returns a job once it has a revision above `after`, or has ended, or `within` is over, or the service shuts down. Without
    /// `after`, that is its next revision.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no job of this kind and id.
    pub async fn changed<N: JobNoun>(
        &self,
        caller: &Caller,
        id: N::Id,
        after: Option<i64>,
        within: Duration,
    ) -> Result<Tracked<N>, Refusal> {
        if !within.is_zero() {
            let now = self.standing::<N>(caller, id).await?;
            // A number that the job does not have yet is from another catalog.
            let after = after.unwrap_or(now.revision).min(now.revision);
            let has_changed = move |job: Standing| job.revision > after || job.status.is_terminal();
            if !has_changed(now) {
                self.wait_until(id.into(), now, within, has_changed).await;
            }
        }
        self.job(caller, id).await
    }

    /// Returns when it is so, when `within` is over, when the service shuts down, or when the database cannot be asked.
    async fn wait_until(
        &self,
        job_id: JobId,
        known: Standing,
        within: Duration,
        is_so: impl Fn(Standing) -> bool,
    ) {
        let mut job = self.watches.follow(job_id, known);
        tokio::select! {
            () = tokio::time::sleep(within) => {}
            () = self.shutdown.draining() => {}
            _ = job.wait_for(|seen| is_so(seen.standing)) => {}
        }
    }

    /// Returns the events of a job after the one that was seen last, as they happen, up to the job's last one; `None` if
    /// that has been seen.
    ///
    /// A stream ends before its job if the database is lost or the service shuts down. The client connects again and
    /// misses nothing.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no job of this kind and id.
    pub async fn events<N: JobNoun>(
        &self,
        caller: &Caller,
        id: N::Id,
        last_seen: i64,
    ) -> Result<Option<BoxStream<'static, JobEvent>>, Refusal> {
        let job = self.standing::<N>(caller, id).await?;
        if job.status.is_terminal() && last_seen >= job.revision {
            return Ok(None);
        }
        // A number that no event has yet would leave out all that are to come. The client has it from another catalog.
        let last_seen = last_seen.min(job.revision);
        let job_seen = self.watches.follow(id.into(), job);
        Ok(Some(self.clone().follow(id.into(), job_seen, last_seen)))
    }

    fn follow(
        self,
        job_id: JobId,
        job: watch::Receiver<Seen>,
        last_seen: i64,
    ) -> BoxStream<'static, JobEvent> {
        let batches = stream::unfold((Some(last_seen), job), move |(last_seen, mut job)| {
            let app = self.clone();
            async move {
                let events = app.next_events(job_id, &mut job, last_seen?).await?;
                let last = events.last()?;
                let next = (!last.status.is_terminal()).then_some(last.seq);
                Some((stream::iter(events), (next, job)))
            }
        });
        batches.flatten().boxed()
    }

    /// Waits for events after `seq`; `None` if the service shuts down, its database cannot be reached, or the job is gone.
    async fn next_events(
        &self,
        job_id: JobId,
        job: &mut watch::Receiver<Seen>,
        seq: i64,
    ) -> Option<Vec<JobEvent>> {
        loop {
            if self.shutdown.is_draining() {
                return None;
            }
            let seen = job.borrow_and_update().clone();
            if seen.standing.revision > seq {
                let events = match seen.events_after(seq) {
                    Some(events) => Ok(events),
                    None => db::event::after(&self.db, job_id, seq, EVENT_BATCH).await,
                };
                match events {
                    Ok(events) if !events.is_empty() => return Some(events),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(%error, job.id = %job_id, "event stream broke off");
                        return None;
                    }
                }
            }
            tokio::select! {
                changed = job.changed() => changed.ok()?,
                () = self.shutdown.draining() => return None,
            }
        }
    }
}

fn standing_of<N>(job: &Job<N>) -> Standing {
    Standing { status: job.status(), revision: job.revision }
}
