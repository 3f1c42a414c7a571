//! The concepts of a sample, ready for the device.

use std::sync::Arc;

use super::engine::Engine;
use super::progress::Progress;
use crate::domain::delta_use::DeltaUse;
use crate::domain::digest::Digest;
use crate::domain::job::Phase;
use crate::domain::merge::MergeRecipe;
use crate::engine::DeltaConcept;
use crate::engine::RegularizationStatistics;
use crate::engine::Result;
use crate::engine::{ConceptSet, ConceptUse};
use crate::engine::{Merge, PackUse};

/// The deltas of a sample, and a key for all that they do to a prompt.
#[derive(Clone)]
pub(crate) struct SampleConcepts {
    deltas: SampleDeltas,
    key: ConceptsKey,
}

/// What a sample's deltas are on the host.
#[derive(Clone)]
pub(crate) enum SampleDeltas {
    /// One as it is, or none.
    Whole(Option<ConceptUse>),
    /// Several, which are merged on the way: what two deltas change overlaps, so they cannot be added.
    Merged { packs: Vec<PackUse>, statistics: Arc<RegularizationStatistics>, recipe: MergeRecipe },
}

/// What concepts do to prompts: their deltas by digest, with the bits of their strengths, and of the share of all of them
/// that is used, and how they are merged. Deltas never change, so the same key gives the same K and V.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ConceptsKey {
    deltas: Vec<(Digest, u64)>,
    share: u64,
    /// The merge's recipe as JSON; empty for a single delta.
    merge: String,
}

impl SampleConcepts {
    /// - `deltas`: what `uses` name, in the same order
    pub(crate) fn new(uses: &[DeltaUse], deltas: SampleDeltas) -> Self {
        let key = ConceptsKey {
            deltas: uses
                .iter()
                .map(|used| (used.sha256.clone(), used.strength.to_bits()))
                .collect(),
            share: 1_f64.to_bits(),
            merge: match &deltas {
                SampleDeltas::Whole(_) => String::new(),
                // A recipe came from JSON, so it goes back.
                SampleDeltas::Merged { recipe, .. } => {
                    serde_json::to_string(recipe).unwrap_or_default()
                }
            },
        };
        Self { deltas, key }
    }

    /// The key of the concepts at a share of their strength.
    pub(crate) fn key(&self, share: f64) -> ConceptsKey {
        ConceptsKey { share: share.to_bits(), ..self.key.clone() }
    }

    /// The modifier tokens that they teach, in the deltas' order.
    pub(crate) fn modifier_tokens(&self) -> Vec<&str> {
        let learnt = self.learnt().into_iter();
        learnt.filter_map(|one| Some(one.words.modifier_token.as_ref()?.as_str())).collect()
    }

    pub(crate) fn is_base_model(&self) -> bool {
        matches!(self.deltas, SampleDeltas::Whole(None))
    }

    /// Puts them onto the device: one delta's, or those of several, solved from their packs in a few milliseconds.
    pub(crate) fn resolve(&self, engine: &Engine, progress: &Progress) -> Result<ConceptSet> {
        match &self.deltas {
            SampleDeltas::Whole(one) => ConceptSet::new(&engine.base, one.as_slice()),
            SampleDeltas::Merged { packs, statistics, recipe } => {
                progress.enter(Phase::Merging);
                let merge = Merge::new(statistics, packs, recipe)?;
                ConceptSet::merged(&engine.base, Arc::new(merge))
            }
        }
    }

    fn learnt(&self) -> Vec<&DeltaConcept> {
        match &self.deltas {
            SampleDeltas::Whole(one) => one.iter().flat_map(|used| &used.delta.concepts).collect(),
            SampleDeltas::Merged { packs, .. } => {
                packs.iter().flat_map(|used| &used.pack.concepts).collect()
            }
        }
    }
}

impl ConceptsKey {
    /// The key of the base model without concepts.
    pub(crate) fn is_base_model(&self) -> bool {
        self.deltas.is_empty()
    }
}
