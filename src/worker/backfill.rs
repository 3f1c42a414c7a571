//! What checks of merges need and an earlier version has not left: made when a worker starts.

use tokio_util::sync::CancellationToken;

use super::error::JobError;
use super::kinds::merge::{store_merge_base, store_pack};
use super::packs::build;
use super::runner::Worker;
use crate::db;
use crate::db::Page;
use crate::domain::delta::Delta;
use crate::storage::StorageKey;

/// Deltas that are looked at together.
const PAGE: i64 = 100;

impl Worker {
    /// Encodes the base model's captions and builds the packs of deltas that have none. What cannot be made is logged and
    /// left out: it costs no more than an answer to a check.
    pub(super) async fn catch_up(&self, shutdown: &CancellationToken) {
        if let Err(error) = self.leave_merge_base().await {
            tracing::warn!(%error, "merges cannot be checked before the first one");
        }
        let mut before = None;
        while !shutdown.is_cancelled() {
            let page = Page { before, limit: PAGE };
            let deltas = db::delta::list_without_pack(&self.db, self.base_digest(), page).await;
            let deltas = deltas.unwrap_or_else(|error| {
                tracing::warn!(%error, "deltas without a merge pack cannot be looked for");
                Vec::new()
            });
            let Some(last) = deltas.last() else { return };
            before = Some(last.delta_id.0);
            for delta in deltas {
                if shutdown.is_cancelled() {
                    return;
                }
                match self.leave_pack(&delta).await {
                    Ok(()) => tracing::info!(delta.id = %delta.delta_id, "built its merge pack"),
                    Err(error) => {
                        tracing::warn!(delta.id = %delta.delta_id, %error, "no merge pack for it");
                    }
                }
            }
        }
    }

    async fn leave_merge_base(&self) -> Result<(), JobError> {
        let Some(captions_digest) = self.captions_digest() else { return Ok(()) };
        let key = StorageKey::merge_base(self.base_digest(), captions_digest);
        if self.storage.read_if_there(&key).await?.is_some() {
            return Ok(());
        }
        let merge_base = self.gpu.run_quick(|engine| engine.merge_base(None)).await??;
        store_merge_base(&self.storage, &merge_base).await
    }

    async fn leave_pack(&self, delta: &Delta) -> Result<(), JobError> {
        let pack = build(self, &delta.used_at(1.0), 1.0).await?;
        // No lease has the number 0, so no job writes there.
        let key = store_pack(&self.storage, delta.job_id, 0, &pack).await?;
        Ok(db::delta::add_pack(&self.db, delta.delta_id, key.as_str()).await?)
    }
}
