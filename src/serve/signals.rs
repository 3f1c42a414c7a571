//! SIGTERM and Ctrl-C.

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::shutdown::exit_at_once;

/// The signals that ask the process to end.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on the signals no longer end the process by themselves.
    ///
    /// # Errors
    /// If the system does not allow it.
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be received");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Returns the name of the next signal, and the exit code of a process that it ends.
    pub async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 128 + SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => ("SIGINT", 128 + SignalKind::interrupt().as_raw_value()),
        }
    }

    /// Does the work of a start. A signal ends the process at once meanwhile, since it has nothing to end in order yet.
    pub(super) async fn or_end_at_once<T>(&mut self, start: impl Future<Output = T>) -> T {
        tokio::select! {
            started = start => started,
            (name, code) = self.next() => {
                tracing::warn!("{name} before the start was complete: ending at once");
                exit_at_once(code)
            }
        }
    }

    /// The next signal ends the process at once. What it held is taken up when its leases end.
    pub(super) fn end_at_once(mut self) {
        tokio::spawn(async move {
            let (name, code) = self.next().await;
            tracing::warn!("{name} again: ending at once");
            exit_at_once(code);
        });
    }
}
