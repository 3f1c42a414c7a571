//! Whether requests can be served: the process, the database and the object store.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::{App, Dependency, Refusal};
use crate::domain::job::JobKind;

/// The longest that a readiness check waits for the database.
const DATABASE_LIMIT: Duration = Duration::from_secs(1);
/// The longest that a probe of the object store may take.
const STORE_LIMIT: Duration = Duration::from_secs(2);
/// How long a probe that succeeded stands for the store.
const STORE_PROBE_KEPT: Duration = Duration::from_secs(30);
/// How long one that failed does.
const STORE_FAILURE_KEPT: Duration = Duration::from_secs(5);
/// How often the database is asked whether it is there.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// The same while it is lost.
const LOST_WATCH_EVERY: Duration = Duration::from_millis(250);
/// How long it may take to answer that. Above it, requests are refused instead of kept waiting.
const WATCH_LIMIT: Duration = Duration::from_millis(2500);

/// Whether requests can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    /// The process has been asked to end.
    ShuttingDown,
    Unavailable(Dependency),
    /// So many jobs of a kind wait that others should be asked: another process with a queue of its own.
    QueueDeep {
        kind: JobKind,
        queued: usize,
    },
}

/// What is known of the service's dependencies.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Whether the database does not answer.
    database_is_lost: watch::Sender<bool>,
    /// When the object store was probed last, and whether it answered.
    store: Mutex<Option<(Instant, bool)>>,
}

impl App {
    /// Returns whether requests can be served: the database and the object store answer, the process has not been asked to
    /// end, and no more jobs wait than it was set up for.
    pub async fn readiness(&self) -> Readiness {
        if self.shutdown.is_draining() {
            return Readiness::ShuttingDown;
        }
        let ping = async { self.db.acquire().await?.ping().await };
        match tokio::time::timeout(DATABASE_LIMIT, ping).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Readiness::Unavailable(Dependency::Database),
        }
        if !self.store_answers().await {
            return Readiness::Unavailable(Dependency::ObjectStore);
        }
        match self.deep_queue().await {
            Some((kind, queued)) => Readiness::QueueDeep { kind, queued },
            None => Readiness::Ready,
        }
    }

    /// The kind of which more jobs wait than [`App::with_ready_queue_depth`] allows, and how many.
    async fn deep_queue(&self) -> Option<(JobKind, usize)> {
        let most = self.ready_queue_depth?;
        let (kind, queued) = self.metrics.queue().await?.deepest()?;
        let queued = usize::try_from(queued).unwrap_or(0);
        (queued > most).then_some((kind, queued))
    }

    async fn store_answers(&self) -> bool {
        let mut last = self.health.store.lock().await;
        if let Some((at, answered)) = *last {
            let kept = if answered { STORE_PROBE_KEPT } else { STORE_FAILURE_KEPT };
            if at.elapsed() < kept {
                return answered;
            }
        }
        let answered = match tokio::time::timeout(STORE_LIMIT, self.storage.answers()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the object store does not answer");
                false
            }
            Err(_) => {
                tracing::warn!("the object store does not answer within {STORE_LIMIT:?}");
                false
            }
        };
        *last = Some((Instant::now(), answered));
        answered
    }

    /// Returns once the database does not answer: at once if it is known to be away.
    pub async fn database_lost(&self) -> Refusal {
        let mut lost = self.health.database_is_lost.subscribe();
        // The sender lives as long as this.
        let _ = lost.wait_for(|lost| *lost).await;
        Refusal::Unavailable {
            dependency: Dependency::Database,
            source: "it has not answered a ping".into(),
        }
    }

    /// Asks the database again and again whether it is there, on a connection of its own, so that requests that are being
    /// served cannot make it look lost. Without this, a request waits as long as the database is stopped.
    pub async fn watch_database(self) {
        let mut connection = None;
        loop {
            let was_lost = *self.health.database_is_lost.borrow();
            let answer = tokio::time::timeout(WATCH_LIMIT, self.ping(connection.take())).await;
            let is_lost = match answer {
                Ok(Ok(connected)) => {
                    connection = Some(connected);
                    if was_lost {
                        tracing::info!("the database answers again");
                    }
                    false
                }
                Ok(Err(error)) => {
                    if !was_lost {
                        tracing::error!(%error, "the database is lost");
                    }
                    true
                }
                Err(_) => {
                    if !was_lost {
                        tracing::error!("the database does not answer within {WATCH_LIMIT:?}");
                    }
                    true
                }
            };
            if is_lost != was_lost {
                self.health.database_is_lost.send_replace(is_lost);
            }
            tokio::time::sleep(if is_lost { LOST_WATCH_EVERY } else { WATCH_EVERY }).await;
        }
    }

    /// Asks on this connection, or on a new one if that is broken: the server may have ended this one alone.
    async fn ping(&self, connection: Option<PgConnection>) -> sqlx::Result<PgConnection> {
        if let Some(mut connection) = connection
            && connection.ping().await.is_ok()
        {
            return Ok(connection);
        }
        let mut connection = self.db.connect_options().connect().await?;
        connection.ping().await?;
        Ok(connection)
    }
}
