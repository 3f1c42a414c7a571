//! Deltas of fewer ranks: what they cost and what is left.

use anyhow::Result;

use super::workshop::Workshop;

/// Makes the table, if the service compresses.
pub(super) async fn table(workshop: &Workshop<'_>) -> Result<String> {
    if !workshop.has_path("/v1/deltas/{delta_id}/compress") {
        return Ok(String::new());
    }
    Ok(String::new())
}
