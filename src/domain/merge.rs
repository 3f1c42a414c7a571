//! A merge: several deltas become one, in closed form (the paper's §3.3).

use serde::{Deserialize, Serialize};

use super::id::ConceptId;
use super::sample::DeltaUse;

/// Solve for one delta that answers to the words of all of these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeTask {
    /// Refuses a worker that has another base model.
    pub base_digest: String,
    pub deltas: Vec<DeltaUse>,
    /// The concepts that the merged delta contains.
    pub concepts: Vec<ConceptId>,
}
