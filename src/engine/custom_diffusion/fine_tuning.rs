//! A training by Custom Diffusion, from photos to a delta.

use std::collections::BTreeMap;

use candle_core::DType;

use super::binding::gains;
use super::concept::DeltaConcept;
use super::delta::Delta;
use super::initializer::Candidates;
use super::modifier_tokens::{TokenStart, initial_rows, initializers, learned_starts};
use super::parameters::{Parameters, Start};
use crate::domain::concept::ModifierToken;
use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};
use crate::engine::flow::Flow;
use crate::engine::training::{
    Dataset, Method, Observe, Trainer, TrainerState, TrainingInput, TrainingProgress, run,
};

/// Learns the concepts of `input` and returns their delta.
///
/// The same input gives the same delta. `observe` is called after each step and may stop the training.
///
/// # Errors
/// Those of [`FineTuning::new`] and [`FineTuning::run`].
pub fn train(
    base: &BaseModel,
    input: &TrainingInput,
    observe: &mut dyn FnMut(&TrainingProgress) -> Flow,
) -> Result<Delta> {
    let mut fine_tuning = FineTuning::new(base, input)?;
    fine_tuning.run(observe)?;
    fine_tuning.delta()
}

/// A training that can be stopped between two steps, and continued from its state, here or in another process.
pub struct FineTuning<'a> {
    base: &'a BaseModel,
    input: &'a TrainingInput,
    start_from: Option<&'a Delta>,
    candidates: Candidates<'a>,
    /// What each modifier token's row started from; `None` until one of the candidates is chosen.
    starts: Option<Vec<TokenStart>>,
    /// For each modifier token the row of the delta that the training goes on from, if it has one.
    learned: Vec<Option<TokenStart>>,
    /// The recipe's initializer token for each modifier token.
    rare: Vec<String>,
    trainer: Trainer<Parameters>,
    binding_gains: Vec<f64>,
}

impl<'a> FineTuning<'a> {
    /// Starts at step 0.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if an initializer or a candidate is not an entry of the model's vocabulary, or if the
    /// model computes in f16.
    pub fn new(base: &'a BaseModel, input: &'a TrainingInput) -> Result<Self> {
        Self::starting_from(base, input, None)
    }

    /// Starts at step 0 from what a delta has learned: its matrices, and the rows of modifier tokens that are trained again.
    /// The result contains the delta's other concepts too, with their rows as they were.
    ///
    /// # Errors
    /// Those of [`Self::new`] and of [`Delta::check_base`].
    pub fn starting_from(
        base: &'a BaseModel,
        input: &'a TrainingInput,
        start_from: Option<&'a Delta>,
    ) -> Result<Self> {
        refuse_f16(base)?;
        let recipe = &input.recipe;
        let learned = learned_starts(input, start_from);
        let mut candidates = Candidates::new(base, input)?;
        if learned.iter().all(Option::is_some) {
            candidates.clear();
        }
        let rare = initializers(recipe, learned.len())?;
        let first = with_learned(&rare, &learned);
        let start = Start {
            projections: match start_from {
                Some(delta) => delta.densify(base)?,
                None => BTreeMap::new(),
            },
            seed: input.seed,
        };
        let rows = initial_rows(base, &first)?;
        let parameters = Parameters::starting_from(base.into(), rows, recipe, &start)?;
        refuse_nothing(&parameters)?;
        let trainer =
            Trainer::new(parameters, base.into(), recipe)?.with_memory_budget(input.memory_budget);
        Ok(Self {
            base,
            input,
            start_from,
            starts: candidates.is_empty().then_some(first),
            candidates,
            learned,
            rare,
            trainer,
            binding_gains: Vec::new(),
        })
    }

    /// Takes the steps that are left. After [`EngineError::Stopped`] the state is that after the last whole step.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if `observe` said so, [`EngineError::Diverged`] if the loss is no longer a number,
    /// [`EngineError::InvalidInput`] if captions do not fit the model.
    pub fn run(&mut self, observe: &mut dyn FnMut(&TrainingProgress) -> Flow) -> Result<()> {
        self.run_observed(&mut |progress, _| observe(progress))
    }

    /// The same for an observer who may take the state out after each step.
    ///
    /// # Errors
    /// Those of [`Self::run`].
    pub fn run_observed(&mut self, observe: &mut Observe<'_>) -> Result<()> {
        let comparisons = self.candidates.comparisons();
        let mut images = 0;
        let dataset = Dataset::encode(self.base, self.input, &mut |step, total| {
            images = total;
            observe(&TrainingProgress::encoding(step, total + comparisons), None)
        })?;
        if !self.candidates.is_empty() {
            self.choose_initializers(&dataset, &mut |step| {
                observe(&TrainingProgress::encoding(images + step, images + comparisons), None)
            })?;
        }
        run(self.base, &mut self.trainer, self.input, &dataset, observe)?;
        self.measure_binding(&dataset)
    }

    fn measure_binding(&mut self, dataset: &Dataset) -> Result<()> {
        let rare: Vec<TokenStart> = self.rare.iter().cloned().map(TokenStart::Entry).collect();
        if let Some(rare) = initial_rows(self.base, &rare)? {
            let parameters = &mut self.trainer.method;
            self.binding_gains = gains(self.base, self.input, dataset, parameters, &rare)?;
        }
        Ok(())
    }

    /// The modifier tokens and what each one's row started from, in the order of the concepts. With candidates, there are
    /// none before [`Self::run`] has chosen them.
    pub fn starts(&self) -> Vec<(ModifierToken, TokenStart)> {
        let tokens = self.input.concepts.iter().filter_map(|one| one.words.modifier_token.clone());
        tokens.zip(self.starts.iter().flatten().cloned()).collect()
    }

    /// By how much the loss on the photos is larger with the row of a rare token, one of the recipe's `initializer_tokens`,
    /// in place of each modifier token's own, as a fraction. Near 0 the model does not read the token.
    ///
    /// One number for each modifier token, in the order of the concepts; none before [`Self::run`] has ended.
    pub fn binding_gains(&self) -> &[f64] {
        &self.binding_gains
    }

    /// Chooses among the candidates. A training that was restored makes the same choice again and keeps its rows.
    fn choose_initializers(
        &mut self,
        dataset: &Dataset,
        observe: &mut dyn FnMut(usize) -> Flow,
    ) -> Result<()> {
        let chosen = self.candidates.choose(dataset, observe)?;
        let chosen = with_learned(&chosen, &self.learned);
        // A restored training has its rows, if they are trained.
        let is_new = self.trainer.steps_taken() == 0;
        let parameters = &mut self.trainer.method;
        if is_new || !parameters.trains_modifier_rows() {
            parameters.replace_modifier_rows(initial_rows(self.base, &chosen)?);
        }
        self.starts = Some(chosen);
        Ok(())
    }

    /// What [`Self::restore`] needs to go on from here.
    pub fn state(&self) -> TrainerState {
        self.trainer.state()
    }

    /// Goes on from the state of a training with the same input.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if its parameters are others.
    pub fn restore(&mut self, state: TrainerState) -> Result<()> {
        self.trainer.restore(state)
    }

    /// What has been learned so far, and what the training went on from.
    ///
    /// It names the recipe's initializer tokens, whatever the rows have started from: at strength 0, a modifier token reads
    /// like a rare token, and its prompts show the plain class.
    pub fn delta(&self) -> Result<Delta> {
        let start_from = self.start_from;
        let parameters = &self.trainer.method;
        let mut rows = match &parameters.modifier_rows {
            Some(rows) => rows.to_vec2::<f32>()?,
            None => Vec::new(),
        }
        .into_iter();
        let mut concepts = self.carried_over();
        let mut rare = self.rare.iter().zip(&self.learned);
        for concept in &self.input.concepts {
            let mut initializer_token = None;
            let mut embedding_row = None;
            if concept.words.modifier_token.is_some() {
                initializer_token = rare.next().and_then(|(rare, learned)| match learned {
                    Some(learned) => learned.initializer_token().map(str::to_owned),
                    None => Some(rare.clone()),
                });
                embedding_row = rows.next();
            }
            let words = concept.words.clone();
            concepts.push(DeltaConcept { words, embedding_row, initializer_token });
        }
        Ok(Delta {
            base_digest: self.base.digest.clone(),
            concepts,
            weights: parameters.learned(start_from.map(|delta| &delta.weights))?,
            metadata: BTreeMap::from([
                ("seed".into(), self.input.seed.to_string()),
                ("max_train_steps".into(), self.input.recipe.max_train_steps.to_string()),
            ]),
        })
    }

    /// The concepts of the delta that the training went on from, without those that it teaches.
    fn carried_over(&self) -> Vec<DeltaConcept> {
        let is_taught = |concept: &&DeltaConcept| {
            self.input.concepts.iter().any(|taught| taught.words == concept.words)
        };
        let known = self.start_from.iter().flat_map(|delta| &delta.concepts);
        known.filter(|concept| !is_taught(concept)).cloned().collect()
    }
}

/// The rows that are already learned, and for the other modifier tokens the entries in their place.
fn with_learned(entries: &[String], learned: &[Option<TokenStart>]) -> Vec<TokenStart> {
    let starts = entries.iter().zip(learned);
    starts
        .map(|(entry, learned)| learned.clone().unwrap_or_else(|| TokenStart::Entry(entry.clone())))
        .collect()
}

/// Without modifier tokens, a training of modifier tokens alone has nothing to train.
fn refuse_nothing(parameters: &Parameters) -> Result<()> {
    if !parameters.parameters().is_empty() {
        return Ok(());
    }
    let text = "no concept has a modifier token, and nothing else is to be learned: learn key or value as well";
    Err(EngineError::InvalidInput(text.to_owned()))
}

/// The gradients of a training lie below what f16 can represent. They would be wrong without an error, because the loss is
/// not scaled.
fn refuse_f16(base: &BaseModel) -> Result<()> {
    if base.unet.dtype() != DType::F16 {
        return Ok(());
    }
    let text = "the model computes in f16, whose range is too small for a training's gradients: train on the CPU or on a \
                GPU of compute capability 8.0 or higher";
    Err(EngineError::InvalidInput(text.to_owned()))
}
