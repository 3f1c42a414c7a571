//! How lanes are notified of new jobs.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::db;
use crate::domain::job::JobKind;

/// How long to wait before reconnecting after the connection broke.
const RECONNECT: Duration = Duration::from_secs(5);

/// Wakes each lane by itself. If all were woken, the queries of the others would delay the one that finds a job.
#[derive(Default)]
pub(super) struct Wakeups {
    training: Notify,
    merge: Notify,
    sample: Notify,
    evaluation: Notify,
    compression: Notify,
}

impl Wakeups {
    pub(super) fn of(&self, kind: JobKind) -> &Notify {
        match kind {
            JobKind::Training => &self.training,
            JobKind::Merge => &self.merge,
            JobKind::Sample => &self.sample,
            JobKind::Evaluation => &self.evaluation,
            JobKind::Compression => &self.compression,
        }
    }

    pub(super) fn all(&self) {
        JobKind::ALL.into_iter().for_each(|kind| self.of(kind).notify_waiters());
    }

    /// Wakes the lane of a kind when such a job is queued; without a connection they still poll.
    pub(super) async fn listen(&self, db: &PgPool, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            let broken: sqlx::Result<()> = tokio::select! {
                result = self.hear(db) => result,
                () = shutdown.cancelled() => return,
            };
            if let Err(error) = broken {
                tracing::warn!(%error, "cannot hear of new jobs, polling instead");
            }
            tokio::select! {
                () = tokio::time::sleep(RECONNECT) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Returns when the connection breaks.
    async fn hear(&self, db: &PgPool) -> sqlx::Result<()> {
        let mut listener = PgListener::connect_with(db).await?;
        listener.listen(db::job::QUEUED_CHANNEL).await?;
        loop {
            let word = listener.recv().await?;
            match JobKind::ALL.into_iter().find(|kind| kind.as_str() == word.payload()) {
                Some(kind) => self.of(kind).notify_waiters(),
                None => self.all(), // a service of another version
            }
        }
    }
}
