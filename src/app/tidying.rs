//! What the catalog need not keep for ever, deleted in the background.

use std::time::Duration;

use super::App;
use crate::db;

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(60);

impl App {
    /// Deletes old events that only report progress, old answers to requests with a key and old deliveries of webhooks, until the service shuts down.
    pub async fn tidy(self) {
        while !self.shutdown.is_closing() {
            match self.forget().await {
                Ok(0) => {}
                Ok(rows) => {
                    tracing::debug!(
                        rows,
                        "deleted old reports of progress, answers and deliveries"
                    );
                    continue; // there may be more
                }
                Err(error) => {
                    tracing::warn!(%error, "old events, answers and deliveries cannot be deleted")
                }
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.shutdown.closing() => {}
            }
        }
    }
    async fn forget(&self) -> sqlx::Result<u64> {
        let events = db::event::forget(&self.db).await?;
        let answers = db::idempotency::forget(&self.db).await?;
        Ok(events + answers + db::webhook_delivery::forget(&self.db).await?)
    }
}
