//! Checkpoints that nobody needs any more: those of trainings that have ended, in whatever way.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::context::Context;
use crate::db;
use crate::storage::StorageKey;

/// How often they are looked for. A training that succeeds takes its own away.
const INTERVAL: Duration = Duration::from_secs(30);

/// Checkpoints per query.
const PAGE: i64 = 100;

/// Takes the checkpoints of ended trainings away until `shutdown` is cancelled.
pub(super) async fn run(context: &Context, shutdown: &CancellationToken) {
    loop {
        if let Err(error) = discard(context).await {
            tracing::warn!(%error, "checkpoints of ended trainings cannot be looked for");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Deletes what ended trainings have left: the objects first, so that none is left behind without a row.
pub(super) async fn discard(context: &Context) -> sqlx::Result<()> {
    loop {
        let ended = db::checkpoint::of_ended_jobs(&context.db, PAGE).await?;
        let is_last_page = ended.len() < PAGE as usize;
        let mut deleted = 0;
        for (job_id, key) in ended {
            if delete(context, &key).await {
                db::checkpoint::forget(&context.db, job_id, &key).await?;
                deleted += 1;
            }
        }
        if is_last_page || deleted == 0 {
            return Ok(());
        }
    }
}

/// Deletes an object that no running training needs. What cannot be deleted is left to the garbage collection.
pub(super) async fn delete(context: &Context, key: &StorageKey) -> bool {
    match context.storage.delete(key).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, key = key.as_str(), "a checkpoint cannot be deleted");
            false
        }
    }
}
