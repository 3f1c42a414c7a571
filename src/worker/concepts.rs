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

/// The deltas of a sample, and a key for everything that they change in a prompt.
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
    /// Any number, each at its own words.
    AtOwnWords(Vec<ConceptUse>),
    /// Several, which are merged for this sample: their changes overlap, so they cannot be added.
    Merged { packs: Vec<PackUse>, statistics: Arc<RegularizationStatistics>, recipe: MergeRecipe },
}

/// What concepts do to prompts: their deltas by digest, with the bits of their strengths, and of the share of all of them
/// that is used, and how they are merged. Deltas never change, so the same key gives the same K and V.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ConceptsKey {
    deltas: Vec<(Digest, u64)>,
    share: u64,
    /// How they come together: the merge's recipe as JSON, a word, or nothing for a single delta.
    method: String,
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
            method: match &deltas {
                SampleDeltas::Whole(_) => String::new(),
                SampleDeltas::AtOwnWords(_) => "own words".to_owned(),
                // The recipe came from JSON, so it can be written as JSON.
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

    /// One of several deltas at their own words, as if it had been named alone.
    pub(crate) fn only(&self, delta: usize) -> Self {
        let one = self.at_own_words(&[delta]);
        match one.deltas {
            SampleDeltas::AtOwnWords(mut uses) => Self {
                deltas: SampleDeltas::Whole(uses.pop()),
                key: ConceptsKey { method: String::new(), ..one.key },
            },
            deltas @ (SampleDeltas::Whole(_) | SampleDeltas::Merged { .. }) => {
                Self { deltas, key: one.key }
            }
        }
    }

    /// Some of several deltas at their own words.
    pub(crate) fn at_own_words(&self, deltas: &[usize]) -> Self {
        let SampleDeltas::AtOwnWords(uses) = &self.deltas else { return self.clone() };
        let chosen = deltas.iter().filter_map(|&delta| uses.get(delta).cloned()).collect();
        let of_key = deltas.iter().filter_map(|&delta| self.key.deltas.get(delta).cloned());
        Self {
            deltas: SampleDeltas::AtOwnWords(chosen),
            key: ConceptsKey { deltas: of_key.collect(), ..self.key.clone() },
        }
    }

    /// The modifier tokens that they teach, in the deltas' order.
    pub(crate) fn modifier_tokens(&self) -> Vec<&str> {
        let learnt = self.learnt().into_iter();
        learnt.filter_map(|one| Some(one.words.modifier_token.as_ref()?.as_str())).collect()
    }

    pub(crate) fn is_base_model(&self) -> bool {
        match &self.deltas {
            SampleDeltas::Whole(one) => one.is_none(),
            SampleDeltas::AtOwnWords(uses) => uses.is_empty(),
            SampleDeltas::Merged { .. } => false,
        }
    }

    /// Moves the concepts to the device. Several deltas are merged from their packs, in a few milliseconds.
    pub(crate) fn resolve(&self, engine: &Engine, progress: &Progress) -> Result<ConceptSet> {
        match &self.deltas {
            SampleDeltas::Whole(one) => ConceptSet::new(&engine.base, one.as_slice()),
            SampleDeltas::AtOwnWords(uses) => ConceptSet::at_own_words(&engine.base, uses),
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
            SampleDeltas::AtOwnWords(uses) => {
                uses.iter().flat_map(|used| &used.delta.concepts).collect()
            }
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
