//! Waiting for a store or a database that is away.
//!
//! What a job has computed may have taken hours. It is not thrown away because an object or a row cannot be written at this
//! moment, and a job does not fail because it begins in such a moment.

use std::time::Duration;

use tokio::time::Instant;

use super::error::JobError;
use super::job::Job;
use super::progress::{Progress, StopReason};
use crate::db;
use crate::domain::digest::Digest;
use crate::storage::StorageKey;

/// The pause after the first failure. It doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a pause looks whether the job has been asked to stop.
const LOOK: Duration = Duration::from_millis(100);

impl Job {
    /// Repeats what a store or a database is needed for until they can be reached, for as long as the worker's patience.
    ///
    /// The heartbeat goes on meanwhile. If another worker takes the job, this ends.
    ///
    /// - `what`: what is being done, for the log
    /// - `attempt`: may run twice; what the first time has written is there
    ///
    /// # Errors
    /// What `attempt` answers, if it will not pass or has not passed in time; [`JobError::Stopped`] and
    /// [`JobError::LeaseLost`].
    pub(crate) async fn patiently<T, F: Future<Output = Result<T, JobError>>>(
        &self,
        what: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, JobError> {
        let patience = self.context.config.patience;
        let stops = |reason| match reason {
            StopReason::WorkerEnds | StopReason::Canceled | StopReason::LeaseLost => true,
        };
        repeat(&self.progress, what, patience, stops, attempt).await
    }

    /// The same while the worker ends: a shutdown does not wait for long, but it waits a little.
    pub(crate) async fn patiently_before_the_end<T, F: Future<Output = Result<T, JobError>>>(
        &self,
        what: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, JobError> {
        let patience = self.context.config.patience.min(Duration::from_secs(5));
        let stops = |reason| match reason {
            StopReason::WorkerEnds => false,
            StopReason::Canceled | StopReason::LeaseLost => true,
        };
        repeat(&self.progress, what, patience, stops, attempt).await
    }

    /// Reads an object, patiently.
    pub(crate) async fn read(&self, key: &StorageKey) -> Result<bytes::Bytes, JobError> {
        self.patiently("reading an object", || async { Ok(self.context.storage.read(key).await?) })
            .await
    }

    /// Reads an object, patiently, and compares it with the digest that its row has, if there is one.
    pub(crate) async fn read_checked(
        &self,
        key: &StorageKey,
        sha256: Option<&Digest>,
    ) -> Result<bytes::Bytes, JobError> {
        let storage = &self.context.storage;
        self.patiently("reading an object", || async {
            Ok(storage.read_checked(key, sha256).await?)
        })
        .await
    }

    /// Writes an object, patiently.
    pub(crate) async fn write(
        &self,
        key: &StorageKey,
        content: impl Into<bytes::Bytes>,
    ) -> Result<(), JobError> {
        let content = content.into();
        let write = || async { Ok(self.context.storage.write(key, content.clone()).await?) };
        self.patiently("writing an object", write).await
    }

    /// Ends the job as succeeded, patiently.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`] if another worker has the job, or somebody has ended it.
    pub(crate) async fn succeed(&self) -> Result<(), JobError> {
        let (db, job_id, fence) = (&self.context.db, self.lease.job_id, self.lease.fence);
        let succeed = || async {
            match db::job::succeed(db, job_id, fence).await? {
                true => Ok(()),
                false => self.expect_success().await,
            }
        };
        self.patiently("ending the job", succeed).await
    }

    /// For an end that was not accepted: whether that is because this lease has ended the job before, with an answer that was
    /// lost.
    ///
    /// # Errors
    /// [`JobError::LeaseLost`] if not.
    pub(crate) async fn expect_success(&self) -> Result<(), JobError> {
        let (job_id, fence) = (self.lease.job_id, self.lease.fence);
        match db::job::has_succeeded(&self.context.db, job_id, fence).await? {
            true => Ok(()),
            false => Err(JobError::LeaseLost),
        }
    }
}

async fn repeat<T, F: Future<Output = Result<T, JobError>>>(
    progress: &Progress,
    what: &str,
    patience: Duration,
    stops: impl Fn(StopReason) -> bool,
    attempt: impl Fn() -> F,
) -> Result<T, JobError> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut failures = 0_u32;
    loop {
        let error = match attempt().await {
            Ok(done) => {
                if failures > 0 {
                    tracing::info!(failures, "{what} worked again");
                }
                return Ok(done);
            }
            Err(error) => error,
        };
        failures += 1;
        if !error.is_transient() || began.elapsed() + pause > patience {
            return Err(error);
        }
        tracing::warn!(%error, failures, "{what} failed and is tried again");
        let until = Instant::now() + jittered(pause);
        pause = (2 * pause).min(LONGEST_PAUSE);
        loop {
            match progress.stop_reason() {
                Some(reason) if stops(reason) => return Err(stopped(reason)),
                Some(_) | None => {}
            }
            let now = Instant::now();
            if now >= until {
                break;
            }
            tokio::time::sleep(LOOK.min(until - now)).await;
        }
    }
}

fn stopped(reason: StopReason) -> JobError {
    match reason {
        StopReason::LeaseLost => JobError::LeaseLost,
        StopReason::WorkerEnds | StopReason::Canceled => JobError::Stopped,
    }
}

/// Half to one and a half times as long, so that workers do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    // The random half of a UUID.
    let random = uuid::Uuid::new_v4().as_u64_pair().1 % 1_000;
    pause / 2 + pause.mul_f64(random as f64 / 1_000.0)
}

impl JobError {
    /// Whether the store or the database may be back in a moment.
    fn is_transient(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_transient(),
            Self::Database(error) => is_transient(error),
            Self::Stopped
            | Self::LeaseLost
            | Self::BaseModelMismatch { .. }
            | Self::EvaluatorMismatch { .. }
            | Self::SampleFailed { .. }
            | Self::Engine(_)
            | Self::EnginePanicked
            | Self::Panicked
            | Self::DamagedObject { .. }
            | Self::Encoding(_)
            | Self::ClassImages(_) => false,
        }
    }
}

/// Whether a database may answer the same statement in a moment: it was away, is starting or stopping, has no connection free,
/// or has rolled the transaction back because of another one.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // Classes of SQLSTATE: connection, rollback, resources, operator, system.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::domain::id::JobId;

    const SHORT: Duration = Duration::from_secs(2);

    fn away() -> JobError {
        JobError::Database(sqlx::Error::PoolTimedOut)
    }

    #[tokio::test]
    async fn what_is_away_for_a_while_is_tried_again_until_it_is_back() {
        let progress = Progress::new(JobId::generate());
        let (began, attempts) = (Instant::now(), Cell::new(0));
        let back_at = began + Duration::from_millis(600);

        let done = repeat(
            &progress,
            "it",
            SHORT,
            |_| true,
            || async {
                attempts.set(attempts.get() + 1);
                if Instant::now() < back_at { Err(away()) } else { Ok(7) }
            },
        );

        assert_eq!(done.await.unwrap(), 7);
        let waited = began.elapsed();
        assert!(waited < Duration::from_secs(5), "{waited:?}"); // the longest pause behind its return
        assert!((4..20).contains(&attempts.get()), "{} attempts", attempts.get());
    }

    #[tokio::test]
    async fn patience_ends() {
        let progress = Progress::new(JobId::generate());
        let began = Instant::now();

        let ended =
            repeat(&progress, "it", SHORT, |_| true, || async { Err::<(), _>(away()) }).await;

        assert!(matches!(ended, Err(JobError::Database(_))), "{ended:?}");
        let waited = began.elapsed();
        // Pauses of 0.1, 0.2, 0.4 and 0.8 s, each by chance half as long; the next one would not fit.
        assert!((Duration::from_millis(750)..2 * SHORT).contains(&waited), "{waited:?}");
    }

    #[tokio::test]
    async fn a_job_that_is_asked_to_stop_waits_no_longer() {
        for (reason, lost) in [
            (StopReason::WorkerEnds, false),
            (StopReason::Canceled, false),
            (StopReason::LeaseLost, true),
        ] {
            let progress = Progress::new(JobId::generate());
            let began = Instant::now();
            let attempt = || async {
                if began.elapsed() > Duration::from_millis(500) {
                    progress.stop(reason);
                }
                Err::<(), _>(away())
            };

            let long = Duration::from_secs(60);
            let ended = repeat(&progress, "it", long, |_| true, attempt).await;

            assert_eq!(matches!(ended, Err(JobError::LeaseLost)), lost, "{ended:?}");
            assert_eq!(matches!(ended, Err(JobError::Stopped)), !lost, "{ended:?}");
            assert!(began.elapsed() < Duration::from_secs(20));
        }
    }

    #[tokio::test]
    async fn what_will_not_pass_is_answered_at_once() {
        let progress = Progress::new(JobId::generate());
        let began = Instant::now();
        let attempt = || async { Err::<(), _>(JobError::Database(sqlx::Error::RowNotFound)) };

        let ended = repeat(&progress, "it", SHORT, |_| true, attempt).await;

        assert!(matches!(ended, Err(JobError::Database(sqlx::Error::RowNotFound))));
        assert!(began.elapsed() < FIRST_PAUSE / 2);
    }
}
