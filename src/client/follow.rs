//! Waiting for the end of a job, also across a restart of the service.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use serde_json::Value;

use super::{Answer, Client, JobEnded, Refused, Unanswered};

/// How long one request waits for a change.
const WAIT_SECS: u64 = 5;
/// The pause between two answers without a change, which a service that ends gives at once.
const PAUSE: Duration = Duration::from_millis(300);
/// How long a service may be away.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is seen of a job while it is followed.
#[derive(Debug)]
pub enum Seen<'a> {
    /// Its state.
    Job(&'a Value),
    /// The service does not answer; it is asked again.
    Lost(&'a Error),
}

impl Client {
    /// Waits until a job has succeeded, and calls `see` with each answer.
    ///
    /// # Errors
    /// [`JobEnded`] if it failed or was canceled; otherwise as for [`Self::follow`].
    pub async fn finish(&self, path: &str, mut see: impl FnMut(&Value)) -> Result<Value> {
        let answer = self.follow(path, |seen| {
            if let Seen::Job(job) = seen {
                see(job);
            }
        });
        let job = answer.await?.value;
        succeeded(path, &job)?;
        Ok(job)
    }

    /// Waits until a job has ended, in whatever way. A service that goes away meanwhile is asked again for two minutes.
    ///
    /// # Errors
    /// [`Refused`] or [`Unanswered`], as of the last request.
    pub async fn follow(&self, path: &str, mut see: impl FnMut(Seen<'_>)) -> Result<Answer> {
        let mut revision = None;
        let mut lost_since = None;
        loop {
            let asked = match revision {
                Some(revision) => format!("{path}?wait={WAIT_SECS}&after_revision={revision}"),
                None => path.to_owned(),
            };
            match self.read(&asked).await {
                Ok(answer) => {
                    lost_since = None;
                    see(Seen::Job(&answer.value));
                    if has_ended(&answer.value) {
                        return Ok(answer);
                    }
                    let now = answer.value["revision"].as_u64();
                    if now == revision {
                        tokio::time::sleep(PAUSE).await;
                    }
                    revision = now;
                }
                Err(error) => {
                    // Whoever has never been reached is not waited for.
                    let was_reached = revision.is_some();
                    let since = *lost_since.get_or_insert_with(Instant::now);
                    if !was_reached || !is_passing(&error) || since.elapsed() > PATIENCE {
                        return Err(error);
                    }
                    see(Seen::Lost(&error));
                    tokio::time::sleep(2 * PAUSE).await;
                }
            }
        }
    }
}

/// # Errors
/// [`JobEnded`] if a job that has ended has no result.
pub(crate) fn succeeded(path: &str, job: &Value) -> Result<()> {
    match job["status"].as_str() {
        Some("succeeded") => Ok(()),
        status => Err(Error::new(JobEnded {
            path: path.to_owned(),
            status: status.unwrap_or("unknown").to_owned(),
            job: job.clone(),
        })),
    }
}

/// Whether a job changes no more.
fn has_ended(job: &Value) -> bool {
    !matches!(job["status"].as_str(), Some("queued" | "running" | "canceling"))
}

fn is_passing(error: &Error) -> bool {
    let refused = error.downcast_ref::<Refused>();
    refused.is_some_and(Refused::is_passing) || error.downcast_ref::<Unanswered>().is_some()
}

/// A path as it is written down: polls of one job count as one request.
pub(super) fn without_wait(path: &str) -> &str {
    path.split_once("?wait=").map_or(path, |(path, _)| path)
}
