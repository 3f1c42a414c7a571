//! Losses on the photos alone, to compare modifier tokens' embedding rows by.

use crate::domain::training::TrainingRecipe;
use crate::engine::base_model::BaseModel;
use crate::engine::error::Result;
use crate::engine::key_values::KeyValues;
use crate::engine::training::{Batch, Dataset, Objective, TrainingInput};
use crate::engine::unet::Activations;

/// Instance images that rows are compared on, for each concept.
const IMAGES_PER_CONCEPT: usize = 16;

/// What a training's rows are compared on: the same images, noise and timesteps for each row.
#[derive(Clone, Copy)]
pub(super) struct Comparison<'a> {
    pub(super) base: &'a BaseModel,
    pub(super) input: &'a TrainingInput,
    /// The timesteps, as shares of the schedule.
    pub(super) timesteps: (f64, f64),
}

impl Comparison<'_> {
    /// The number of batches.
    pub(super) fn rounds(&self) -> usize {
        let images = IMAGES_PER_CONCEPT * self.input.concepts.len();
        images.div_ceil(self.input.recipe.instance_batch_size)
    }

    /// A batch of instance images alone, as large as the training's, with timesteps that are evenly spaced over all rounds.
    ///
    /// Its images and noise are those of a step after the training's last one, so no step repeats them.
    pub(super) fn batch(&self, dataset: &Dataset, round: usize) -> Result<Batch> {
        let recipe = TrainingRecipe { class_batch_size: 0, ..self.input.recipe.clone() };
        let step = recipe.max_train_steps + round;
        let mut batch = dataset.batch(self.base, &recipe, self.input.seed, step)?;
        let size = recipe.instance_batch_size;
        let elements = (self.rounds() * size) as f64;
        let (first, last) = self.timesteps;
        for (element, timestep) in batch.timesteps.iter_mut().enumerate() {
            let place = ((round * size + element) as f64 + 0.5) / elements;
            let share = first + place * (last - first);
            *timestep = (share * self.base.scheduler.num_train_timesteps as f64) as u32;
        }
        Ok(batch)
    }

    /// Each element's loss.
    pub(super) fn losses(&self, batch: &Batch, key_values: &KeyValues) -> Result<Vec<f64>> {
        let objective = Objective {
            prediction_type: self.base.scheduler.prediction_type,
            prior_loss_weight: self.input.recipe.prior_loss_weight,
            activations: Activations::default(),
        };
        objective.element_losses(self.base.into(), batch, key_values)
    }

    /// For each modifier token the sum of the losses of elements whose caption has it.
    pub(super) fn by_token(&self, batch: &Batch, losses: &[f64]) -> Vec<f64> {
        let tokens = 0..self.input.modifier_tokens().len() as u32;
        let of_token = |token: u32| {
            let id = self.first_modifier_id() + token;
            let elements = batch.input_ids.iter().zip(losses);
            elements.filter(|(ids, _)| ids.contains(&id)).map(|(_, loss)| loss).sum()
        };
        tokens.map(of_token).collect()
    }

    pub(super) fn first_modifier_id(&self) -> u32 {
        self.base.prompt_encoder.vocab_size() as u32
    }
}
