//! The tasks of a process. One that ends before the process is asked to is a failure of the whole process: half a service
//! must not pass for one.

use std::time::Duration;

use anyhow::{Error, anyhow};
use tokio::task::{JoinError, JoinSet};

/// The long-running parts of a process.
#[derive(Default)]
pub(super) struct Tasks {
    running: JoinSet<&'static str>,
}

impl Tasks {
    /// Starts a part.
    ///
    /// - `name`: what the part is, for the log
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = ()> + Send + 'static,
    ) {
        self.running.spawn(async move {
            part.await;
            name
        });
    }

    /// Returns when the first part has ended, with the reason why that is wrong.
    pub(super) async fn failure(&mut self) -> Error {
        match self.running.join_next().await {
            Some(Ok(name)) => anyhow!("{name} ended unexpectedly"),
            Some(Err(error)) => broken(error),
            None => anyhow!("nothing runs"),
        }
    }

    /// Waits until all parts have ended, but no longer than `limit`. Returns whether they have.
    pub(super) async fn end(&mut self, limit: Duration) -> bool {
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(error = format!("{:#}", broken(error)));
                }
            }
        };
        tokio::time::timeout(limit, all).await.is_ok()
    }
}

fn broken(error: JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text =
                text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            anyhow!("a part of the process panicked: {text}")
        }
        Err(error) => error.into(),
    }
}
