//! The task that keeps a lease alive while its job runs.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::lease::Lease;
use super::progress::StopReason;

/// How often progress is written, the lease is renewed, and a cancellation is noticed.
const INTERVAL: Duration = Duration::from_millis(500);

/// Renews a lease in a task of its own, however busy the job is; ends when it is dropped.
pub(crate) struct Heartbeat {
    _task: AbortOnDropHandle<()>,
}

impl Heartbeat {
    /// - `shutdown`: asks the job to stop when the worker ends
    pub(crate) fn start(lease: Lease, shutdown: CancellationToken) -> Self {
        Self {
            _task: AbortOnDropHandle::new(tokio::spawn(renew(lease, shutdown).in_current_span())),
        }
    }
}

/// Writes progress and renews the lease until it is lost, and tells the job when to stop.
///
/// While the database is unavailable, the job goes on. If the lease expires in the meantime, the next renewal reports
/// it.
async fn renew(lease: Lease, shutdown: CancellationToken) {
    // The first renewal comes after one interval. Jobs that end before it, as many samples do, need no query for it.
    let mut ticks = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ends = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.cancelled(), if !ends => {
                ends = true;
                lease.progress.stop(StopReason::WorkerEnds);
                continue;
            }
        }
        match lease.report().await {
            Ok(Some(false)) => {}
            Ok(Some(true)) => lease.progress.stop(StopReason::Canceled),
            Ok(None) => {
                tracing::warn!("lost the lease");
                lease.progress.stop(StopReason::LeaseLost);
                return;
            }
            Err(error) => tracing::warn!(%error, "progress not written"),
        }
    }
}
