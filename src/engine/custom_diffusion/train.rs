//! The fine-tuning loop.

use std::collections::BTreeMap;

use image::RgbImage;

use crate::domain::concept::ModifierToken;
use crate::domain::training::{LrScheduler, TrainingRecipe};
use crate::engine::base_model::BaseModel;
use crate::engine::custom_diffusion::adamw::{AdamW, clip_factor, global_norm};
use crate::engine::custom_diffusion::dataset::Dataset;
use crate::engine::custom_diffusion::delta::{Delta, DeltaConcept, DeltaWeights};
use crate::engine::custom_diffusion::memory::StepMemory;
use crate::engine::custom_diffusion::parameters::{
    Batch, FrozenFeatures, FrozenModel, Objective, Parameters,
};
use crate::engine::custom_diffusion::tokens::{initial_rows, initializer, modifier_tokens};
use crate::engine::rows::Split;
use crate::engine::unet::Activations;
use crate::engine::{EngineError, Flow, Result};

/// What one training learns from: one concept, or several jointly.
pub struct TrainingInput {
    pub concepts: Vec<TrainingConcept>,
    pub recipe: TrainingRecipe,
    pub seed: u64,
    /// As in [`Trainer::with_memory_budget`]; the result does not depend on it.
    pub memory_budget: Option<u64>,
}

/// One concept's words and images.
pub struct TrainingConcept {
    /// `None` teaches the class noun itself, as the paper does with its moongate.
    pub modifier_token: Option<ModifierToken>,
    pub class_noun: String,
    pub images: Vec<RgbImage>,
    /// May be empty: then the training has no class images.
    pub class_images: Vec<CaptionedImage>,
}

/// A class image and the caption that it is trained with.
pub struct CaptionedImage {
    pub image: RgbImage,
    pub caption: String,
}

/// What a training is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainingPhase {
    /// Images are augmented and turned into latents; steps count images.
    Encoding,
    /// The parameters move; steps are optimiser steps.
    Optimizing,
}

/// How far a training is.
#[derive(Clone, Copy, Debug)]
pub struct TrainingProgress {
    pub phase: TrainingPhase,
    pub step: usize,
    pub total_steps: usize,
    /// Loss and gradient norm (before clipping) of the step just taken; 0 while encoding.
    pub loss: f32,
    pub grad_norm: f64,
    pub learning_rate: f64,
}

/// Learns the concepts of `input` and returns their delta.
///
/// The same input gives the same delta. `observe` is called after each step and may stop the training.
///
/// # Errors
/// [`EngineError::Stopped`] if `observe` said so, [`EngineError::Diverged`] if the loss is no longer a number,
/// [`EngineError::InvalidInput`] if captions or initializers do not fit the model.
pub fn train(
    base: &BaseModel,
    input: &TrainingInput,
    observe: &mut dyn FnMut(&TrainingProgress) -> Flow,
) -> Result<Delta> {
    let recipe = &input.recipe;
    let tokens = modifier_tokens(&input.concepts).len();
    let mut trainer = Trainer::new(base.into(), recipe, initial_rows(base, recipe, tokens)?)?
        .with_memory_budget(input.memory_budget);
    let dataset = Dataset::encode(base, input, &mut |step, total_steps| {
        let phase = TrainingPhase::Encoding;
        observe(&TrainingProgress {
            phase,
            step,
            total_steps,
            loss: 0.0,
            grad_norm: 0.0,
            learning_rate: 0.0,
        })
    })?;

    for step in 0..recipe.max_train_steps {
        let batch = dataset.batch(base, recipe, input.seed, step)?;
        let learning_rate = learning_rate_at(recipe, step);
        let StepReport { loss, grad_norm } = trainer.step(base.into(), &batch, learning_rate)?;
        if !loss.is_finite() {
            return Err(EngineError::Diverged { step: step + 1, loss });
        }
        let progress = TrainingProgress {
            phase: TrainingPhase::Optimizing,
            step: step + 1,
            total_steps: recipe.max_train_steps,
            loss,
            grad_norm,
            learning_rate,
        };
        if observe(&progress) == Flow::Stop {
            return Err(EngineError::Stopped);
        }
    }
    delta(base, input, &trainer.parameters)
}

/// The parameters of a training with their optimiser.
pub struct Trainer {
    pub parameters: Parameters,
    objective: Objective,
    max_grad_norm: f64,
    token_learning_rate_factor: f64,
    projections_optimizer: AdamW,
    modifier_rows_optimizer: Option<AdamW>,
    frozen: FrozenFeatures,
    memory_budget: Option<u64>,
}

/// What one step saw, before it moved the parameters.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    pub loss: f32,
    /// Global norm over all parameters, before clipping.
    pub grad_norm: f64,
}

impl Trainer {
    /// Starts from the base model and `(modifier tokens, text_dim)` initial rows. Modifier rows do not decay.
    pub fn new(
        base: FrozenModel<'_>,
        recipe: &TrainingRecipe,
        modifier_rows: Option<candle_core::Tensor>,
    ) -> Result<Self> {
        let parameters = Parameters::new(base, modifier_rows)?;
        Ok(Self {
            objective: Objective {
                prediction_type: base.scheduler.prediction_type,
                prior_loss_weight: recipe.prior_loss_weight,
                detach_first_token: recipe.detach_first_token,
                activations: Activations::default(),
            },
            max_grad_norm: recipe.max_grad_norm,
            token_learning_rate_factor: recipe.token_learning_rate_factor,
            projections_optimizer: AdamW::new(&parameters.projections, recipe.weight_decay)?,
            modifier_rows_optimizer: parameters
                .modifier_rows
                .as_ref()
                .map(|rows| AdamW::new(rows, 0.0))
                .transpose()?,
            parameters,
            frozen: FrozenFeatures::default(),
            memory_budget: None,
        })
    }

    /// Keeps what a step has alive beside the model's weights below so many bytes, as far as that can be done by
    /// computing layers of the UNet again on the way back. The result is the same to the bit.
    pub fn with_memory_budget(self, bytes: Option<u64>) -> Self {
        Self { memory_budget: bytes, ..self }
    }

    /// What of a batch's activations is kept.
    fn activations(&self, base: FrozenModel<'_>, batch: &Batch) -> Result<Activations> {
        let Some(budget) = self.memory_budget else { return Ok(Activations::Keep) };
        let call = base.unet.call_size(&batch.latents)?;
        let vocab_size = base.text_encoder.vocab_size() as u32;
        let prompts = batch.input_ids.iter();
        let live = prompts.filter(|ids| ids.iter().any(|&id| id >= vocab_size)).count();
        let prompts = (live, batch.input_ids.first().map_or(0, Vec::len));
        let (unet, text) = (base.unet.config(), base.text_encoder.config());
        let kept = StepMemory::of(unet, text, &call, prompts, &unet.recompute_all(false));
        Ok(Activations::Within(kept.left_for_activations(budget)))
    }

    /// One optimiser step on `batch`.
    pub fn step(
        &mut self,
        base: FrozenModel<'_>,
        batch: &Batch,
        learning_rate: f64,
    ) -> Result<StepReport> {
        match base.unet.split() {
            // From one of the pool's own threads its helpers are near: woken from outside for each of the small
            // operations around the UNet, they would cost more than those.
            Split::Rows => rayon::scope(|_| self.step_here(base, batch, learning_rate)),
            Split::Operations => self.step_here(base, batch, learning_rate),
        }
    }

    fn step_here(
        &mut self,
        base: FrozenModel<'_>,
        batch: &Batch,
        learning_rate: f64,
    ) -> Result<StepReport> {
        let objective = Objective { activations: self.activations(base, batch)?, ..self.objective };
        let gradient = self.parameters.loss_gradient(base, batch, objective, &mut self.frozen)?;
        let grad_norm =
            global_norm([&gradient.projections].into_iter().chain(&gradient.modifier_rows))?;
        let clip = clip_factor(grad_norm, self.max_grad_norm);

        let parameters = &mut self.parameters;
        parameters.projections = self.projections_optimizer.step(
            &parameters.projections,
            &gradient.projections,
            clip,
            learning_rate,
        )?;
        if let (Some(rows), Some(gradient), Some(optimizer)) = (
            &mut parameters.modifier_rows,
            gradient.modifier_rows,
            &mut self.modifier_rows_optimizer,
        ) {
            *rows = optimizer.step(
                rows,
                &gradient,
                clip,
                learning_rate * self.token_learning_rate_factor,
            )?;
        }
        Ok(StepReport { loss: gradient.loss, grad_norm })
    }
}

/// The rate of step `step`, counted from 0.
fn learning_rate_at(recipe: &TrainingRecipe, step: usize) -> f64 {
    let warmup = recipe.lr_warmup_steps;
    let warm = if step < warmup { (step + 1) as f64 / warmup as f64 } else { 1.0 };
    let schedule = match recipe.lr_scheduler {
        LrScheduler::Constant => 1.0,
        LrScheduler::Cosine => {
            let progress = step as f64 / recipe.max_train_steps as f64;
            0.05 + 0.95 * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
        }
    };
    recipe.learning_rate * warm * schedule
}

fn delta(base: &BaseModel, input: &TrainingInput, parameters: &Parameters) -> Result<Delta> {
    let mut rows = match &parameters.modifier_rows {
        Some(rows) => rows.to_vec2::<f32>()?,
        None => Vec::new(),
    }
    .into_iter();
    let mut concepts = Vec::new();
    let mut token = 0;
    for concept in &input.concepts {
        let mut initializer_token = None;
        let mut token_row = None;
        if concept.modifier_token.is_some() {
            initializer_token = Some(initializer(&input.recipe, token)?.to_owned());
            token_row = rows.next();
            token += 1;
        }
        concepts.push(DeltaConcept {
            modifier_token: concept.modifier_token.clone(),
            token_row,
            initializer_token,
            class_noun: concept.class_noun.clone(),
        });
    }
    let weights =
        parameters.by_name(&parameters.projections.to_device(&candle_core::Device::Cpu)?)?;
    Ok(Delta {
        base_digest: base.digest.clone(),
        concepts,
        weights: DeltaWeights::Dense(weights),
        metadata: BTreeMap::from([
            ("seed".into(), input.seed.to_string()),
            ("max_train_steps".into(), input.recipe.max_train_steps.to_string()),
        ]),
    })
}
