//! What checks of merges need and is not stored, because an earlier version did not make it or because making it failed. It is
//! made when a worker starts.

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::delta_writer::note_missing_pack;
use crate::db;
use crate::db::Page;

/// Deltas per query.
const PAGE: i64 = 100;

/// Encodes the base model's captions and builds the packs of deltas that have none. What cannot be made is logged and
/// left out; a check over it is then refused.
pub(super) async fn run(context: &Context, shutdown: &CancellationToken) {
    if let Err(error) = context.default_statistics().await {
        let reason = error.failure().detail;
        tracing::warn!(%error, reason, "merges over the class images' captions cannot be checked");
    }
    let mut before = None;
    while !shutdown.is_cancelled() {
        let page = Page { after: before, ..Page::newest(PAGE) };
        let deltas = db::delta::list_without_pack(&context.db, &context.model.digest, page).await;
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
            match context.make_pack(&delta).await {
                Ok(_) => tracing::info!(delta.id = %delta.delta_id, "built its merge pack"),
                Err(error) => note_missing_pack(context, delta.delta_id, &error).await,
            }
        }
    }
}
