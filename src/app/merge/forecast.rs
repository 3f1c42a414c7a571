//! What is to be expected of a merge that a request asks for.

use std::time::Duration;

use crate::app::App;
use crate::delta_store::DeltaStoreError;
use crate::domain::composition::Composition;
use crate::domain::delta_use::DeltaUse;
use crate::domain::merge::MergeRecipe;
use crate::domain::sample::SampleTask;
use crate::domain::warning::Warning;

/// The longest that a request waits for the forecast of its merge. Later requests get what was computed meanwhile.
const FORECAST_WITHIN: Duration = Duration::from_millis(100);

impl App {
    /// What is to be expected of a sample whose deltas are merged.
    pub(in crate::app) async fn merge_warnings(&self, task: &SampleTask) -> Option<Warning> {
        if task.composition != Composition::Merge {
            return None;
        }
        self.forecast_of_merge(&task.deltas, &task.merge, "/composition").await
    }

    /// What is to be expected of a merge. There is no warning where there is no forecast: packs that no worker has made yet, an
    /// object store that is slow or down. The worker says what is an error.
    ///
    /// - `pointer`: the field that would change it
    pub(in crate::app) async fn forecast_of_merge(
        &self,
        deltas: &[DeltaUse],
        recipe: &MergeRecipe,
        pointer: &str,
    ) -> Option<Warning> {
        if deltas.len() < 2 {
            return None;
        }
        let (store, deltas, recipe) = (self.deltas.clone(), deltas.to_vec(), recipe.clone());
        let forecast = tokio::spawn(async move { store.check(&deltas, &recipe).await });
        match tokio::time::timeout(FORECAST_WITHIN, forecast).await {
            Ok(Ok(Ok(report))) => Warning::of_merge(&report, pointer),
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
                        tracing::warn!(error, "no forecast of a merge");
                    }
                }
                None
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }
}
