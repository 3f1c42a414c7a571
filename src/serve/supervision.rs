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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_a_failure_with_its_name_and_a_panic_one_with_its_text() {
        let mut tasks = Tasks::default();
        tasks.spawn("the one that waits", std::future::pending());
        tasks.spawn("the one that ends", async {});
        let ended = tasks.failure().await.to_string();
        tasks.spawn("the one that panics", async { panic!("at {}", 5) });
        let panicked = tasks.failure().await.to_string();

        assert_eq!(ended, "the one that ends ended unexpectedly");
        assert!(panicked.ends_with("panicked: at 5"), "{panicked}");
        assert!(!tasks.end(Duration::from_millis(50)).await, "one still waits");
    }
}
