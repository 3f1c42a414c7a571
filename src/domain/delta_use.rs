//! What takes part in a sample or a merge: a concept as a request names it, a delta as a task does.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::concept::ConceptRef;
use super::digest::Digest;
use super::id::DeltaId;
use super::storage_key::StorageKey;

/// The most deltas that one sample or merge can combine.
pub const MAX_DELTAS: usize = 8;

/// How much a delta changes the base model: 0 not at all, 1 as trained.
pub const STRENGTHS: RangeInclusive<f64> = 0.0..=2.0;

/// A concept that takes part in a sample or a merge, with its delta and strength.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConceptUse {
    /// Id or handle. Can be omitted if `delta` is given: then all concepts of that delta take part.
    #[schema(value_type = Option<String>, examples("rex"))]
    pub concept: Option<ConceptRef>,
    /// The delta to use. Defaults to the current delta of the concept.
    pub delta: Option<DeltaId>,
    /// How much of the delta is applied, from 0 (the base model) through 1 (the concept as trained) to 2. Defaults to 1.
    #[schema(minimum = 0, maximum = 2, default = 1.0)]
    pub strength: Option<f64>,
}

/// A delta that takes part in a sample or a merge, as a task names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeltaUse {
    pub delta_id: DeltaId,
    pub storage_key: StorageKey,
    /// Key of the merge pack, which is what a merge reads of the delta; older deltas have none.
    #[serde(default)]
    pub pack_key: Option<StorageKey>,
    /// The digest of the object.
    pub sha256: Digest,
    pub strength: f64,
}
