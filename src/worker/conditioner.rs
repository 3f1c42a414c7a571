//! K and V of prompts: made once, then kept on the device.

use std::sync::Arc;

use super::job::JobContext;
use super::lru::Lru;
use super::merging::solve;
use super::model::Engine;
use super::packs::Concepts;
use crate::domain::job::Phase;
use crate::domain::merge::MergeRecipe;
use crate::domain::sample::DeltaUse;
use crate::engine::Result;
use crate::engine::conditioning::{ConceptSet, Conditioning, prompt_tokens};
use crate::engine::sampler::{Prompts, Row, SampleRequest};

/// The concepts of a sample: the deltas, and a name for all that they do to a prompt.
pub(crate) struct Cast {
    concepts: Concepts,
    /// How they are merged, if they are several.
    merge: MergeRecipe,
    recipe: Recipe,
}

/// What concepts do to prompts: their deltas by digest, with the bits of their strengths, and of the share of all of them
/// that is used, and how they are merged. Deltas never change, so the same recipe gives the same K and V.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Recipe {
    deltas: Vec<(String, u64)>,
    share: u64,
    /// The merge's recipe as JSON; empty for a single delta.
    merge: String,
}

impl Cast {
    /// - `concepts`: what `uses` name, in the same order
    pub(crate) fn new(uses: &[DeltaUse], concepts: Concepts, merge: MergeRecipe) -> Self {
        let recipe = Recipe {
            deltas: uses
                .iter()
                .map(|used| (used.sha256.to_string(), used.strength.to_bits()))
                .collect(),
            share: 1_f64.to_bits(),
            // A recipe came from JSON, so it goes back.
            merge: match uses.len() {
                0 | 1 => String::new(),
                _ => serde_json::to_string(&merge).unwrap_or_default(),
            },
        };
        Self { concepts, merge, recipe }
    }
}

/// Makes rows ready for the batch, from kept K and V where they are known.
///
/// They depend on the recipe and the prompt's token ids, and on the engine's dtype, of which there is one per thread.
/// Nothing else of a concept is ever on the device.
pub(crate) struct Conditioner {
    kept: Lru<(Recipe, Vec<u32>), Conditioning>,
    /// The base model's answer to the empty prompt, which everyone may need, is never forgotten.
    unconditional: Option<(Vec<u32>, Conditioning)>,
}

impl Conditioner {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self { kept: Lru::new(budget_bytes), unconditional: None }
    }

    /// The row of one picture, at its first step.
    pub(crate) fn row(
        &mut self,
        engine: &Engine,
        job: &JobContext,
        cast: &Cast,
        request: &SampleRequest,
    ) -> Result<Row> {
        let added = cast.concepts.modifier_tokens();
        let mut concepts: Option<ConceptSet> = None;
        let prompts = Prompts::made_by(request, &mut |prompt, share| {
            let base = &engine.base;
            let tokens = prompt_tokens(base, &added, prompt)?;
            let named = tokens.ids.iter().any(|&id| id as usize >= base.tokenizer.vocab_size());
            // Without strength and without a modifier token it is the base model's, whatever the concepts.
            let base_alone = cast.concepts.is_base_model() || (share == 0.0 && !named);
            let recipe = match base_alone {
                true => Recipe::default(),
                false => Recipe { share: share.to_bits(), ..cast.recipe.clone() },
            };
            if let Some(known) = self.known(&recipe, &tokens.ids) {
                return Ok(known);
            }
            let concepts = match &mut concepts {
                Some(concepts) => concepts,
                none => none.insert(concepts_of(engine, job, cast)?),
            };
            let made = concepts.scaled(share).condition(base, prompt)?;
            self.keep(recipe, tokens.ids, prompt, &made);
            Ok(made)
        })?;
        Row::with_prompts(&engine.base, request, prompts)
    }

    fn known(&mut self, recipe: &Recipe, tokens: &[u32]) -> Option<Conditioning> {
        match &self.unconditional {
            Some((empty, known)) if recipe.deltas.is_empty() && empty == tokens => {
                Some(known.clone())
            }
            _ => self.kept.get(&(recipe.clone(), tokens.to_vec())),
        }
    }

    fn keep(&mut self, recipe: Recipe, tokens: Vec<u32>, prompt: &str, made: &Conditioning) {
        if recipe.deltas.is_empty() && prompt.is_empty() {
            self.unconditional = Some((tokens, made.clone()));
        } else {
            self.kept.put((recipe, tokens), made.clone(), made.size_bytes());
        }
    }
}

/// One delta's concepts, or those of several, solved from their packs in a few milliseconds.
fn concepts_of(engine: &Engine, job: &JobContext, cast: &Cast) -> Result<ConceptSet> {
    match &cast.concepts {
        Concepts::Whole(one) => ConceptSet::new(&engine.base, one.as_slice()),
        Concepts::Packs(packs) => {
            job.enter(Phase::Merging);
            ConceptSet::merged(&engine.base, Arc::new(solve(engine, packs, &cast.merge)?))
        }
    }
}
