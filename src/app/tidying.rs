//! What the catalog need not keep for ever, deleted in the background.

use std::time::Duration;

use super::App;
use crate::db;

/// How often it is looked for.
const EVERY: Duration = Duration::from_secs(60);

impl App {
    /// Deletes old events that only report progress, and old deliveries of webhooks, until the service shuts down.
    pub async fn tidy(self) {
        while !self.shutdown.is_closing() {
            match db::webhook_delivery::forget(&self.db).await {
                Ok(0) => {}
                Ok(deliveries) => {
                    tracing::debug!(deliveries, "deleted old deliveries of webhooks");
                    continue; // there may be more
                }
                Err(error) => {
                    tracing::warn!(%error, "old deliveries of webhooks cannot be deleted")
                }
            }
            match db::event::forget(&self.db).await {
                Ok(0) => {}
                Ok(events) => {
                    tracing::debug!(events, "deleted old reports of progress");
                    continue; // there may be more
                }
                Err(error) => tracing::warn!(%error, "old events cannot be deleted"),
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.shutdown.closing() => {}
            }
        }
    }
}
