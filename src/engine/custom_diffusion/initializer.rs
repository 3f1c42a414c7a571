//! The choice of the vocabulary entry that a modifier token's embedding row starts from.
//!
//! A rare token brings no meaning, as the paper wants it. But some text encoders have learned to ignore rare tokens:
//! whatever is in such a token's row, the features of the class noun and of the end tokens hardly change. Then a concept's
//! captions hardly differ from those of its class images, and the modifier token may not bind. A word that modifies
//! nouns, such as a color, is read from the first step on. So a recipe may list such words as candidates.

use super::comparison::Comparison;
use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};
use crate::engine::flow::Flow;
use crate::engine::training::{Batch, Dataset, TrainingInput};

/// The timesteps at which candidates are compared, as shares of the schedule.
///
/// At lower noise the latents themselves show what the photo looks like. There a wrong detail costs more than a wrong
/// color, and a vague candidate wins over a telling one.
const TIMESTEPS: (f64, f64) = (0.75, 0.95);

/// A recipe's `initializer_candidates`, looked up in the base model's vocabulary.
pub(super) struct Candidates<'a> {
    comparison: Comparison<'a>,
    /// Token ids, in the recipe's order; empty if no concept has a modifier token.
    ids: Vec<u32>,
}

impl<'a> Candidates<'a> {
    /// # Errors
    /// [`EngineError::InvalidInput`] if a candidate is not an entry of the model's vocabulary.
    pub(super) fn new(base: &'a BaseModel, input: &'a TrainingInput) -> Result<Self> {
        let id = |name: &String| {
            base.prompt_encoder.initializer_id(name).ok_or_else(|| {
                EngineError::InvalidInput(format!(
                    "initializer_candidates: `{name}` is not an entry of the model's vocabulary"
                ))
            })
        };
        let names = &input.recipe.initializer_candidates;
        let mut ids = names.iter().map(id).collect::<Result<Vec<_>>>()?;
        if input.modifier_tokens().is_empty() {
            ids.clear();
        }
        Ok(Self { comparison: Comparison { base, input, timesteps: TIMESTEPS }, ids })
    }

    /// Whether there is nothing to choose from.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Leaves nothing to choose.
    pub(super) fn clear(&mut self) {
        self.ids.clear();
    }

    /// The number of forward passes that [`Self::choose`] takes.
    pub(super) fn comparisons(&self) -> usize {
        self.comparison.rounds() * self.ids.len()
    }

    /// The candidate for each modifier token: the one with which the base model's loss on the concept's photos at high
    /// noise is least. Concepts of one training get different candidates as long as there are enough.
    ///
    /// The choice depends on the base model and the training's input alone.
    ///
    /// - `observe`: called with the number of comparisons made
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if `observe` said so.
    pub(super) fn choose(
        &self,
        dataset: &Dataset,
        observe: &mut dyn FnMut(usize) -> Flow,
    ) -> Result<Vec<String>> {
        let comparison = &self.comparison;
        let tokens = comparison.input.modifier_tokens().len();
        let mut losses = vec![vec![0.0; self.ids.len()]; tokens];
        let mut done = 0;
        for round in 0..comparison.rounds() {
            let batch = comparison.batch(dataset, round)?;
            for (candidate, &id) in self.ids.iter().enumerate() {
                let by_token = comparison.by_token(&batch, &self.losses(&batch, id)?);
                for (token, loss) in by_token.into_iter().enumerate() {
                    losses[token][candidate] += loss;
                }
                done += 1;
                if observe(done) == Flow::Stop {
                    return Err(EngineError::Stopped);
                }
            }
        }
        let names = &comparison.input.recipe.initializer_candidates;
        Ok(least(&losses).into_iter().map(|candidate| names[candidate].clone()).collect())
    }

    /// Each element's loss in the base model if the candidate `id` replaces the modifier token in its caption.
    fn losses(&self, batch: &Batch, id: u32) -> Result<Vec<f64>> {
        let Comparison { base, .. } = self.comparison;
        let first = self.comparison.first_modifier_id();
        let replaced = |&token: &u32| if token < first { token } else { id };
        let captions: Vec<Vec<u32>> =
            batch.input_ids.iter().map(|ids| ids.iter().map(replaced).collect()).collect();
        let features = base.prompt_encoder.encode(&captions, None)?;
        self.comparison.losses(batch, &base.unet.project(&features)?)
    }
}

/// For each token the candidate of the least loss that no token before it has, or of all once each is taken.
///
/// - `losses`: by token, then by candidate
fn least(losses: &[Vec<f64>]) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    for of_token in losses {
        let all_taken = chosen.len() >= of_token.len();
        let best = (0..of_token.len())
            .filter(|candidate| all_taken || !chosen.contains(candidate))
            .min_by(|&a, &b| of_token[a].total_cmp(&of_token[b]));
        chosen.extend(best);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_gets_its_best_candidate_that_is_free() {
        let losses = [vec![0.3, 0.1, 0.2], vec![0.3, 0.1, 0.2], vec![0.1, 0.2, 0.3]];

        assert_eq!(least(&losses), [1, 2, 0]);
    }

    #[test]
    fn candidates_are_shared_once_all_are_taken() {
        assert_eq!(least(&[vec![0.2, 0.1], vec![0.2, 0.1], vec![0.2, 0.1]]), [1, 0, 1]);
    }
}
