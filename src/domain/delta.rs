//! A delta: what a training changed, what several deltas became by a merge, or what a compression left of one.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use utoipa::ToSchema;

use super::concept::{ConceptWords, Handle};
use super::delta_use::DeltaUse;
use super::digest::Digest;
use super::id::{ConceptId, DeltaId, JobId};
use super::job::JobKind;
use super::record::Record;
use super::storage_key::StorageKey;

/// A delta as the catalog has it; its weights are an object in the store.
#[derive(Clone, Debug)]
pub struct Delta {
    pub delta_id: DeltaId,
    /// The training, merge or compression that made it.
    pub job_id: JobId,
    pub made_by: JobKind,
    /// The base model that it belongs to.
    pub base_digest: Digest,
    pub storage_key: StorageKey,
    pub size_bytes: i64,
    /// The digest of the object.
    pub sha256: Digest,
    /// What merges need of it. Older deltas have none, nor those for which it could not be made yet.
    pub pack_key: Option<StorageKey>,
    /// Why it could not be made.
    pub pack_error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub record: Record,
}

impl Delta {
    /// The delta as a task names it.
    pub fn used_at(&self, strength: f64) -> DeltaUse {
        DeltaUse {
            delta_id: self.delta_id,
            storage_key: self.storage_key.clone(),
            pack_key: self.pack_key.clone(),
            sha256: self.sha256.clone(),
            strength,
        }
    }
}

/// A concept that a delta contains.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaConcept {
    pub delta_id: DeltaId,
    pub concept_id: ConceptId,
    pub handle: Handle,
    pub words: ConceptWords,
}

/// How a delta's matrices are written to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeltaFormat {
    /// As it is stored: merged, compressed and low-rank deltas in factors.
    #[default]
    Native,
    /// Every matrix whole, under its name in diffusers.
    Dense,
}
