//! A training by Custom Diffusion, from photos to a delta.

use std::collections::BTreeMap;

use candle_core::{DType, Device};

use super::binding::gains;
use super::concept::DeltaConcept;
use super::delta::{Delta, DeltaWeights};
use super::initializer::Candidates;
use super::modifier_tokens::{initial_rows, initializers};
use super::parameters::Parameters;
use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};
use crate::engine::flow::Flow;
use crate::engine::training::{
    Dataset, Trainer, TrainerState, TrainingInput, TrainingProgress, run,
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
    candidates: Candidates<'a>,
    /// What the modifier rows started from; `None` until one of the candidates is chosen.
    starts: Option<Vec<String>>,
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
        refuse_f16(base)?;
        let recipe = &input.recipe;
        let candidates = Candidates::new(base, input)?;
        let rare = initializers(recipe, input.modifier_tokens().len())?;
        let rows = initial_rows(base, &rare)?;
        let parameters = Parameters::new(base.into(), rows, recipe)?;
        let trainer =
            Trainer::new(parameters, base.into(), recipe)?.with_memory_budget(input.memory_budget);
        let starts = candidates.is_empty().then(|| rare.clone());
        Ok(Self { base, input, candidates, starts, rare, trainer, binding_gains: Vec::new() })
    }

    /// Takes the steps that are left. After [`EngineError::Stopped`] the state is that after the last whole step.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if `observe` said so, [`EngineError::Diverged`] if the loss is no longer a number,
    /// [`EngineError::InvalidInput`] if captions do not fit the model.
    pub fn run(&mut self, observe: &mut dyn FnMut(&TrainingProgress) -> Flow) -> Result<()> {
        let comparisons = self.candidates.comparisons();
        let mut images = 0;
        let dataset = Dataset::encode(self.base, self.input, &mut |step, total| {
            images = total;
            observe(&TrainingProgress::encoding(step, total + comparisons))
        })?;
        if !self.candidates.is_empty() {
            self.choose_initializers(&dataset, &mut |step| {
                observe(&TrainingProgress::encoding(images + step, images + comparisons))
            })?;
        }
        run(self.base, &mut self.trainer, self.input, &dataset, observe)?;
        self.measure_binding(&dataset)
    }

    fn measure_binding(&mut self, dataset: &Dataset) -> Result<()> {
        if let Some(rare) = initial_rows(self.base, &self.rare)? {
            let parameters = &mut self.trainer.method;
            self.binding_gains = gains(self.base, self.input, dataset, parameters, &rare)?;
        }
        Ok(())
    }

    /// The vocabulary entry that each modifier token started from, in the order of the concepts. With candidates, there are
    /// none before [`Self::run`] has chosen them.
    pub fn starts(&self) -> &[String] {
        self.starts.as_deref().unwrap_or_default()
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
        if self.trainer.steps_taken() == 0 {
            self.trainer.method.modifier_rows = initial_rows(self.base, &chosen)?;
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

    /// What has been learned so far.
    ///
    /// It names the recipe's initializer tokens, whatever the rows have started from: at strength 0, a modifier token reads
    /// like a rare token, and its prompts show the plain class.
    pub fn delta(&self) -> Result<Delta> {
        let parameters = &self.trainer.method;
        let mut rows = match &parameters.modifier_rows {
            Some(rows) => rows.to_vec2::<f32>()?,
            None => Vec::new(),
        }
        .into_iter();
        let mut concepts = Vec::new();
        let mut rare = self.rare.iter();
        for concept in &self.input.concepts {
            let mut initializer_token = None;
            let mut embedding_row = None;
            if concept.words.modifier_token.is_some() {
                initializer_token = rare.next().cloned();
                embedding_row = rows.next();
            }
            let words = concept.words.clone();
            concepts.push(DeltaConcept { words, embedding_row, initializer_token });
        }
        let projections = parameters.projections.to_device(&Device::Cpu)?;
        Ok(Delta {
            base_digest: self.base.digest.clone(),
            concepts,
            weights: DeltaWeights::Dense(parameters.by_name(&projections)?),
            metadata: BTreeMap::from([
                ("seed".into(), self.input.seed.to_string()),
                ("max_train_steps".into(), self.input.recipe.max_train_steps.to_string()),
            ]),
        })
    }
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
