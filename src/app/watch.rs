//! Who waits for jobs: one query at a time for all of them.
//!
//! Waiting requests and event streams do not ask the catalog one by one. While anybody waits, one task of the process asks for the
//! standing of all the jobs that are waited for, and fetches the new events of those that have changed. So what waiting costs does not
//! grow with the number of clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::sync::watch;

use crate::db;
use crate::db::job::Standing;
use crate::domain::id::JobId;
use crate::domain::job::JobEvent;

/// How often the jobs are looked at.
const INTERVAL: Duration = Duration::from_millis(50);

/// The newest events of a job that are kept for its streams.
const MAX_KEPT: usize = 32;

/// The jobs that somebody waits for. A clone is a handle to the same ones.
#[derive(Clone, Debug)]
pub(super) struct Watches {
    db: PgPool,
    jobs: Arc<Mutex<Watched>>,
}

#[derive(Debug, Default)]
struct Watched {
    jobs: HashMap<JobId, watch::Sender<Seen>>,
    /// Whether the task runs that looks at the jobs.
    is_looked_at: bool,
}

/// What is known of a job.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) standing: Standing,
    /// Every event after number `complete_after`, in order.
    events: Arc<Vec<JobEvent>>,
    complete_after: i64,
}

impl Seen {
    fn new(standing: Standing) -> Self {
        Self { standing, events: Arc::default(), complete_after: standing.revision }
    }

    /// The events after number `seq`; `None` if not all of them are known here.
    pub(super) fn events_after(&self, seq: i64) -> Option<Vec<JobEvent>> {
        let is_complete = seq >= self.complete_after;
        let after = self.events.iter().filter(|event| event.seq > seq);
        is_complete.then(|| after.cloned().collect())
    }

    fn add(&mut self, standing: Standing, new: Vec<JobEvent>) {
        self.standing = standing;
        let mut events: Vec<JobEvent> = self.events.iter().cloned().chain(new).collect();
        let surplus = events.len().saturating_sub(MAX_KEPT);
        if let Some(last) = events.drain(..surplus).next_back() {
            self.complete_after = last.seq;
        }
        self.events = Arc::new(events);
    }
}

impl Watches {
    pub(super) fn new(db: PgPool) -> Self {
        Self { db, jobs: Arc::default() }
    }

    /// Follows a job. The receiver is told of every change after `known`; it is closed if the database cannot be asked.
    pub(super) fn follow(&self, job_id: JobId, known: Standing) -> watch::Receiver<Seen> {
        let mut watched = self.lock();
        let sender =
            watched.jobs.entry(job_id).or_insert_with(|| watch::Sender::new(Seen::new(known)));
        let receiver = sender.subscribe();
        if !watched.is_looked_at {
            watched.is_looked_at = true;
            tokio::spawn(self.clone().look());
        }
        receiver
    }

    /// Looks at the jobs as long as anybody waits for one.
    async fn look(self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(known) = self.known() else { return };
            if let Err(error) = self.note_changes(&known).await {
                tracing::warn!(%error, "jobs that are waited for cannot be looked at");
                let mut watched = self.lock();
                watched.jobs.clear(); // whoever waits is told
                watched.is_looked_at = false;
                return;
            }
        }
    }

    /// The jobs that are waited for and their newest revisions; `None` if there are none, which ends the task.
    fn known(&self) -> Option<HashMap<JobId, i64>> {
        let mut watched = self.lock();
        watched.jobs.retain(|_, sender| sender.receiver_count() > 0);
        if watched.jobs.is_empty() {
            watched.is_looked_at = false;
            return None;
        }
        let revision = |sender: &watch::Sender<Seen>| sender.borrow().standing.revision;
        Some(watched.jobs.iter().map(|(job_id, sender)| (*job_id, revision(sender))).collect())
    }

    async fn note_changes(&self, known: &HashMap<JobId, i64>) -> sqlx::Result<()> {
        let ids: Vec<JobId> = known.keys().copied().collect();
        let mut standings: HashMap<JobId, Standing> =
            db::job::standings(&self.db, &ids).await?.into_iter().collect();
        let gone = ids.iter().filter(|job_id| !standings.contains_key(job_id));
        for job_id in gone {
            self.lock().jobs.remove(job_id); // deleted: whoever waits is told
        }
        standings.retain(|job_id, standing| known[job_id] < standing.revision);
        if standings.is_empty() {
            return Ok(());
        }
        let changed: Vec<(JobId, i64)> =
            standings.keys().map(|job_id| (*job_id, known[job_id])).collect();
        let mut events = db::event::after_each(&self.db, &changed).await?;
        let watched = self.lock();
        for (job_id, standing) in standings {
            let mut new = events.remove(&job_id).unwrap_or_default();
            // Events that came after the standing was read belong to the next one.
            new.retain(|event| event.seq <= standing.revision);
            if let Some(sender) = watched.jobs.get(&job_id) {
                sender.send_modify(|seen| seen.add(standing, new));
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::domain::job::JobStatus;

    #[test]
    fn only_events_of_which_none_is_missing_are_handed_out() {
        let event = |seq| JobEvent {
            seq,
            status: JobStatus::Running,
            phase: None,
            progress: None,
            error: None,
            created_at: Utc::now(),
        };
        let at = |revision| Standing { status: JobStatus::Running, revision };
        let numbers = |seen: &Seen, seq| {
            let events = seen.events_after(seq)?;
            Some(events.iter().map(|event| event.seq).collect::<Vec<_>>())
        };
        let mut seen = Seen::new(at(5));

        seen.add(at(7), vec![event(6), event(7)]);

        assert_eq!(numbers(&seen, 5), Some(vec![6, 7]));
        assert_eq!(numbers(&seen, 7), Some(vec![]));
        assert_eq!(numbers(&seen, 4), None);
        let more = MAX_KEPT as i64;
        seen.add(at(7 + more), (8..=7 + more).map(event).collect());
        assert_eq!(numbers(&seen, 6), None);
        assert_eq!(numbers(&seen, 7).map(|events| events.len()), Some(MAX_KEPT));
    }
}
