//! Warnings about merges that samples ask for.

use std::time::Duration;

use crate::app::App;
use crate::delta_store::DeltaStoreError;
use crate::domain::composition::Composition;
use crate::domain::sample::SampleTask;
use crate::domain::warning::Warning;

/// The longest that a request waits for the forecast of its merge. Later requests get what was computed meanwhile.
const FORECAST_WITHIN: Duration = Duration::from_millis(100);

impl App {
    /// What is to be expected of a sample whose deltas are merged. There is no warning where there is no forecast: packs that
    /// no worker has made yet, an object store that is slow or down. The worker says what is an error.
    pub(in crate::app) async fn merge_warnings(&self, task: &SampleTask) -> Vec<Warning> {
        if task.deltas.len() < 2 || task.composition != Composition::Merge {
            return Vec::new();
        }
        let (store, deltas, recipe) =
            (self.deltas.clone(), task.deltas.clone(), task.merge.clone());
        let forecast = tokio::spawn(async move { store.check(&deltas, &recipe).await });
        match tokio::time::timeout(FORECAST_WITHIN, forecast).await {
            Ok(Ok(Ok(report))) => Warning::of_merge(&report).into_iter().collect(),
            Ok(Ok(Err(error))) => {
                match error {
                    DeltaStoreError::PackMissing(_)
                    | DeltaStoreError::CaptionsNotEncoded
                    | DeltaStoreError::Refused(_) => {}
                    DeltaStoreError::Storage(_)
                    | DeltaStoreError::Damaged { .. }
                    | DeltaStoreError::Engine(_)
                    | DeltaStoreError::Panicked => {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(error, "no forecast of a sample's merge");
                    }
                }
                Vec::new()
            }
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}
