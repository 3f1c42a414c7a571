//! The phases in which a process ends, as every part of it can wait for them.

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Tells all parts of a process that it ends, in two phases. A clone is a handle to the same shutdown.
///
/// 1. *Draining*: the process answers, but says that it is not ready. Nothing is claimed any more, trainings stop, event
///    streams end and waiting requests are answered.
/// 2. *Closing*: no connection is accepted, and every job stops at its next step.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    closing: CancellationToken,
}

impl Shutdown {
    /// Begins the first phase.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Begins the second phase, and the first one if it was left out.
    pub fn close(&self) {
        self.draining.cancel();
        self.closing.cancel();
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Returns once the process drains.
    pub fn draining(&self) -> WaitForCancellationFuture<'_> {
        self.draining.cancelled()
    }

    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Returns once the process closes.
    pub fn closing(&self) -> WaitForCancellationFuture<'_> {
        self.closing.cancelled()
    }

    /// The first phase as a token, for parts that know no phases.
    pub fn draining_token(&self) -> &CancellationToken {
        &self.draining
    }

    /// The second phase as a token.
    pub fn closing_token(&self) -> &CancellationToken {
        &self.closing
    }
}

impl From<CancellationToken> for Shutdown {
    /// Both phases at once.
    fn from(token: CancellationToken) -> Self {
        Self { draining: token.clone(), closing: token }
    }
}

/// Ends the process without running what others have registered for its end: a thread may still compute on a device, whose
/// driver must not be taken down under it.
#[expect(unsafe_code, reason = "the end of the process is a system call")]
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: has no preconditions.
    unsafe { libc::_exit(code) }
}
