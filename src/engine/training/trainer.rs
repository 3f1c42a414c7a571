//! The trainer, which takes optimizer steps.

use candle_core::Tensor;

use super::adamw::{AdamW, clip_factor, global_norm};
use super::batch::{Batch, FrozenModel};
use super::memory::StepMemory;
use super::method::{LossGradient, Method, loss_gradient};
use super::objective::Objective;
use super::state::{ParameterState, TrainerState};
use crate::domain::training::TrainingRecipe;
use crate::engine::error::{EngineError, Result};
use crate::engine::ops::HeldCopies;
use crate::engine::unet::Activations;

/// A method's parameters with their optimizer.
pub struct Trainer<M> {
    pub method: M,
    objective: Objective,
    max_grad_norm: f64,
    /// One for each of [`Method::parameters`].
    optimizers: Vec<AdamW>,
    steps_taken: usize,
    memory_budget: Option<u64>,
    /// Of both networks, unless memory is limited.
    copies: Option<[HeldCopies; 2]>,
}

/// Loss and gradient norm of a step, before it changed the parameters.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    pub loss: f32,
    /// Global norm over all parameters, before clipping.
    pub grad_norm: f64,
}

impl<M: Method> Trainer<M> {
    /// Starts at step 0 with the method's parameters as they are.
    pub fn new(method: M, base: FrozenModel<'_>, recipe: &TrainingRecipe) -> Result<Self> {
        let parameters = method.parameters();
        let optimizers = parameters.iter().map(|one| AdamW::new(one.value, one.weight_decay));
        Ok(Self {
            objective: Objective {
                prediction_type: base.scheduler.prediction_type,
                prior_loss_weight: recipe.prior_loss_weight,
                activations: Activations::default(),
            },
            max_grad_norm: recipe.max_grad_norm,
            optimizers: optimizers.collect::<Result<_, _>>()?,
            steps_taken: 0,
            memory_budget: None,
            copies: Some([
                base.unet.training_copies().hold(),
                base.text_encoder.training_copies().hold(),
            ]),
            method,
        })
    }

    /// Limits what a step holds in addition to the model's weights to `bytes`, as far as computing layers of the UNet
    /// again in the backward pass can do that. Weights are then not copied either. The result is the same to the bit.
    pub fn with_memory_budget(self, bytes: Option<u64>) -> Self {
        let copies = self.copies.filter(|_| bytes.is_none());
        Self { memory_budget: bytes, copies, ..self }
    }

    /// Optimizer steps so far, those before [`Self::restore`] included.
    pub fn steps_taken(&self) -> usize {
        self.steps_taken
    }

    /// What [`Self::restore`] needs to go on from here.
    pub fn state(&self) -> TrainerState {
        let parameters = self.method.parameters();
        let parameters = parameters.iter().zip(&self.optimizers).map(|(parameter, optimizer)| {
            let [first_moment, second_moment] = optimizer.moments().map(Tensor::clone);
            let (name, value) = (parameter.name.to_owned(), parameter.value.clone());
            ParameterState { name, value, first_moment, second_moment }
        });
        TrainerState { step: self.steps_taken, parameters: parameters.collect() }
    }

    /// Goes on from a state, which may come from another device.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if it is not the state of these parameters. Then the trainer is unchanged.
    pub fn restore(&mut self, state: TrainerState) -> Result<()> {
        let own = self.method.parameters();
        let fits = own.len() == state.parameters.len()
            && own.iter().zip(&state.parameters).all(|(own, other)| {
                let tensors = [&other.value, &other.first_moment, &other.second_moment];
                own.name == other.name && tensors.iter().all(|x| x.dims() == own.value.dims())
            });
        if !fits {
            let text = "the state belongs to a training of other parameters";
            return Err(EngineError::InvalidInput(text.to_owned()));
        }
        let (mut values, mut optimizers) = (Vec::new(), Vec::new());
        for (own, other) in own.iter().zip(&state.parameters) {
            let device = own.value.device();
            values.push(other.value.to_device(device)?);
            let moments = [&other.first_moment, &other.second_moment];
            let [first, second] = moments.map(|moment| moment.to_device(device));
            optimizers.push(AdamW::resumed([first?, second?], state.step, own.weight_decay));
        }
        self.method.set_parameters(values);
        (self.optimizers, self.steps_taken) = (optimizers, state.step);
        Ok(())
    }

    /// One optimizer step on `batch`.
    pub fn step(
        &mut self,
        base: FrozenModel<'_>,
        batch: &Batch,
        learning_rate: f64,
    ) -> Result<StepReport> {
        base.unet.split().on_pool(|| self.step_here(base, batch, learning_rate))
    }

    fn step_here(
        &mut self,
        base: FrozenModel<'_>,
        batch: &Batch,
        learning_rate: f64,
    ) -> Result<StepReport> {
        let objective = Objective { activations: self.activations(base, batch)?, ..self.objective };
        let LossGradient { loss, gradients } =
            loss_gradient(&mut self.method, base, batch, objective)?;
        let grad_norm = global_norm(&gradients)?;
        let clip = clip_factor(grad_norm, self.max_grad_norm);

        let mut values = Vec::with_capacity(gradients.len());
        let parameters = self.method.parameters();
        let optimizers = self.optimizers.iter_mut();
        for ((parameter, optimizer), gradient) in parameters.iter().zip(optimizers).zip(gradients) {
            let rate = learning_rate * parameter.learning_rate_factor;
            values.push(optimizer.step(parameter.value, &gradient, clip, rate)?);
        }
        self.method.set_parameters(values);
        self.steps_taken += 1;
        Ok(StepReport { loss, grad_norm })
    }

    /// What of a batch's activations is kept for the backward pass.
    fn activations(&self, base: FrozenModel<'_>, batch: &Batch) -> Result<Activations> {
        let Some(budget) = self.memory_budget else { return Ok(Activations::Keep) };
        let call = base.unet.call_size(&batch.latents)?;
        let vocab_size = base.text_encoder.vocab_size() as u32;
        let prompts = batch.input_ids.iter();
        let live = prompts.filter(|ids| ids.iter().any(|&id| id >= vocab_size));
        let live = if self.method.trains_text() { live.count() } else { 0 };
        let prompts = (live, batch.input_ids.first().map_or(0, Vec::len));
        let parameters = self.method.parameters();
        let trained = parameters.iter().map(|one| one.value.elem_count() as u64).sum();
        let (unet, text) = (base.unet.config(), base.text_encoder.config());
        let kept = StepMemory::of(trained, unet, text, &call, prompts, &unet.recompute_all(false));
        Ok(Activations::Within(kept.left_for_activations(budget)))
    }
}
