//! Tells idle workers of new jobs, at most every 50 ms for each kind.
//!
//! A notification takes a lock of the whole database when it commits, so it is not a part of the transaction that queues a
//! job. The first is sent at once, so that one job alone waits for nothing. Workers poll as well: a lost notification costs
//! time, never a job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;

use crate::db;
use crate::domain::job::JobKind;

/// The least time between two notifications of one kind.
const QUIET: Duration = Duration::from_millis(50);

/// A handle; clones announce together.
#[derive(Clone, Debug)]
pub(super) struct Announcer {
    db: PgPool,
    /// The kinds that have been announced within [`QUIET`], and whether further jobs have been queued since.
    recent: Arc<Mutex<HashMap<JobKind, bool>>>,
}

impl Announcer {
    pub(super) fn new(db: PgPool) -> Self {
        Self { db, recent: Arc::default() }
    }

    /// Announces jobs that have been committed, now or soon.
    pub(super) fn announce(&self, kind: JobKind) {
        let mut recent = self.recent();
        match recent.get_mut(&kind) {
            Some(again) => *again = true,
            None => {
                recent.insert(kind, false);
                tokio::spawn(self.clone().send(kind));
            }
        }
    }

    /// Sends until nothing new has come for [`QUIET`].
    async fn send(self, kind: JobKind) {
        loop {
            if let Err(error) = db::job::announce(&self.db, kind).await {
                tracing::debug!(%error, "new jobs are not announced, workers find them when they poll");
            }
            tokio::time::sleep(QUIET).await;
            let mut recent = self.recent();
            match recent.get_mut(&kind) {
                Some(again) if *again => *again = false,
                Some(_) | None => {
                    recent.remove(&kind);
                    return;
                }
            }
        }
    }

    fn recent(&self) -> MutexGuard<'_, HashMap<JobKind, bool>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
