//! What checks of merges need and an earlier version has not left: made when a worker starts.

use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::error::JobError;
use crate::db;
use crate::db::Page;
use crate::domain::delta::Delta;

/// Deltas that are looked at together.
const PAGE: i64 = 100;

/// Encodes the base model's captions and builds the packs of deltas that have none. What cannot be made is logged and
/// left out: it costs no more than an answer to a check.
pub(super) async fn run(context: &Context, shutdown: &CancellationToken) {
    if let Err(error) = backfill_statistics(context).await {
        tracing::warn!(%error, "merges cannot be checked before the first one");
    }
    let mut before = None;
    while !shutdown.is_cancelled() {
        let page = Page { before, limit: PAGE };
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
            match backfill_pack(context, &delta).await {
                Ok(()) => tracing::info!(delta.id = %delta.delta_id, "built its merge pack"),
                Err(error) => {
                    tracing::warn!(delta.id = %delta.delta_id, %error, "no merge pack for it");
                }
            }
        }
    }
}

async fn backfill_statistics(context: &Context) -> Result<(), JobError> {
    if !context.class_images.is_empty() {
        context.statistics(None).await?;
    }
    Ok(())
}

async fn backfill_pack(context: &Context, delta: &Delta) -> Result<(), JobError> {
    let pack = context.build_pack(&delta.used_at(1.0), 1.0).await?;
    // No lease has the number 0, so no job writes there.
    let key = context.deltas.write_pack(delta.job_id, 0, &pack).await?;
    Ok(db::delta::add_pack(&context.db, delta.delta_id, key.as_str()).await?)
}
