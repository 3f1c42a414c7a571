//! The state of one image while it is denoised.

use std::ops::RangeInclusive;
use std::sync::Arc;

use candle_core::Tensor;
use image::RgbImage;

use super::attention_maps::AttentionMaps;
use super::batch_key::BatchKey;
use super::decoding::{decode, shrink, to_rgb};
use super::prompts::PromptKeyValues;
use super::request::{InitImage, SampleRequest};
use crate::domain::sample::Determinism;
use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};
use crate::engine::key_values::KeyValues;
use crate::engine::random::{Purpose, Random};
use crate::engine::schedulers::{Scheduler, SchedulerConfig};

/// The most latent cells a side that a preview is decoded from.
const PREVIEW_CELLS: usize = 32;

/// One image between two steps: its latents, and all that its next step depends on.
pub struct DenoisingState {
    pub(super) prompts: PromptKeyValues,
    guidance_scale: f64,
    /// Between which timesteps guidance is applied, both included.
    guided_timesteps: RangeInclusive<f32>,
    pub(super) scheduler: Scheduler,
    pub(super) latents: Vec<f32>,
    /// The finished latents as the last step predicts them, for previews.
    predicted: Option<Vec<f32>>,
    /// `(channels, height, width)` of the latents.
    pub(super) shape: (usize, usize, usize),
    seed: u64,
    image_index: u64,
    pub(super) next_step: usize,
    determinism: Determinism,
    held: Option<Held>,
    pub(super) attention: Option<AttentionMaps>,
}

/// What stays of the image that was started from: its latents, noised to each step, outside a mask (Avrahami et al.,
/// blended latent diffusion, arXiv:2206.02779).
struct Held {
    clean: Arc<[f32]>,
    noise: Vec<f32>,
    /// How much of each cell is generated.
    mask: Arc<[f32]>,
}

impl DenoisingState {
    /// An image before its first step, with initial latents from the seed.
    pub fn new(base: &BaseModel, request: &SampleRequest) -> Result<Self> {
        let prompts = PromptKeyValues::new(base, request)?;
        Self::with_key_values(base, request, prompts)
    }

    /// The same for prompts that have been encoded before.
    pub fn with_key_values(
        base: &BaseModel,
        request: &SampleRequest,
        prompts: PromptKeyValues,
    ) -> Result<Self> {
        let (channels, height, width) = latent_shape(base, request)?;
        let mut noise = vec![0.0; channels * height * width];
        Random::new(request.seed, Purpose::InitialLatents, request.image_index, 0)
            .normals(&mut noise);
        Self::start(base, &base.scheduler, request, prompts, noise)
    }

    /// The same from given parts.
    ///
    /// - `noise`: `channels · height · width` standard normal numbers
    pub fn start(
        base: &BaseModel,
        config: &SchedulerConfig,
        request: &SampleRequest,
        prompts: PromptKeyValues,
        noise: Vec<f32>,
    ) -> Result<Self> {
        let shape = latent_shape(base, request)?;
        let size = shape.0 * shape.1 * shape.2;
        let init = request.init.as_ref().map_or(size, |init| init.latents.len());
        if noise.len() != size || init != size {
            let text = format!("{} latents and {init} of the image for {shape:?}", noise.len());
            return Err(EngineError::InvalidInput(text));
        }
        let (name, steps) = (request.scheduler, request.num_inference_steps);
        let held = match &request.init {
            Some(InitImage { latents, mask: Some(mask), .. }) => {
                if mask.len() != shape.1 * shape.2 {
                    let text = format!("a mask of {} cells for latents of {shape:?}", mask.len());
                    return Err(EngineError::InvalidInput(text));
                }
                Some(Held { clean: latents.clone(), noise: noise.clone(), mask: mask.clone() })
            }
            Some(_) | None => None,
        };
        let scheduler = Scheduler::late(name, config, steps, request.eta, request.skipped_steps())?;
        let latents = match &request.init {
            None => {
                let sigma = scheduler.init_noise_sigma();
                noise.into_iter().map(|value| value * sigma).collect()
            }
            Some(init) => scheduler.add_noise(&init.latents, &noise),
        };
        let trained = config.num_train_timesteps as f64;
        let [start, end] = request.guidance_interval.map(|at| ((1.0 - at) * trained) as f32);
        Ok(Self {
            prompts,
            guidance_scale: request.guidance_scale,
            guided_timesteps: end..=start,
            scheduler,
            latents,
            predicted: None,
            shape,
            seed: request.seed,
            image_index: request.image_index,
            next_step: 0,
            determinism: request.determinism,
            held,
            attention: None,
        })
    }

    /// Keeps from here on how much the image attends to groups of its prompt's tokens.
    pub fn watch(&mut self, groups: &[Vec<usize>]) {
        let (_, height, width) = self.shape;
        self.attention = Some(AttentionMaps::new(groups.to_vec(), (height, width)));
    }

    /// What was kept since [`Self::watch`].
    pub fn attention(&self) -> Option<&AttentionMaps> {
        self.attention.as_ref()
    }

    /// Steps that are left.
    pub fn remaining(&self) -> usize {
        self.scheduler.timesteps().len() - self.next_step
    }

    /// Steps in all.
    pub fn total_steps(&self) -> usize {
        self.scheduler.timesteps().len()
    }

    /// Elements that this image takes in the next call of the UNet: two where it is guided.
    pub fn elements(&self) -> usize {
        if self.negative().is_some() { 2 } else { 1 }
    }

    /// The image as it stands, `(3, height, width)` in [0, 1].
    pub fn decode(&self, base: &BaseModel) -> Result<Tensor> {
        Ok(decode(base, &[&self.latents], self.shape)?.squeeze(0)?)
    }

    /// A small image of the result as the last step predicts it; `None` before the first step.
    ///
    /// Decoded from at most 32 latent cells a side: more are averaged.
    pub fn preview(&self, base: &BaseModel) -> Result<Option<RgbImage>> {
        let Some(predicted) = &self.predicted else { return Ok(None) };
        let (small, shape) = shrink(predicted, self.shape, PREVIEW_CELLS);
        Ok(Some(to_rgb(&decode(base, &[&small], shape)?.squeeze(0)?)?))
    }

    pub(super) fn batch_key(&self, base: &BaseModel) -> BatchKey {
        BatchKey::new(self.shape, self.determinism, base.device.is_cpu())
    }

    /// What guidance leads away from in the next step.
    pub(super) fn negative(&self) -> Option<&KeyValues> {
        let timestep = self.scheduler.timesteps().get(self.next_step)?;
        self.prompts.negative.as_ref().filter(|_| self.guided_timesteps.contains(timestep))
    }

    /// `ε_∅ + s (ε_c − ε_∅)`, from one or two predictions of the model.
    fn guide(&self, predictions: &[f32]) -> Vec<f32> {
        if self.negative().is_none() {
            return predictions.to_vec();
        }
        let scale = self.guidance_scale as f32;
        let (negative, positive) = predictions.split_at(predictions.len() / 2);
        negative.iter().zip(positive).map(|(n, p)| n + scale * (p - n)).collect()
    }

    /// Applies the scheduler to what the model predicted.
    pub(super) fn advance(&mut self, predictions: &[f32]) -> Result<()> {
        let model_pred = self.guide(predictions);
        if model_pred.iter().any(|value| !value.is_finite()) {
            return Err(EngineError::NotFinite { step: self.next_step + 1 });
        }
        let noise = self.scheduler.needs_noise(self.next_step).then(|| {
            let mut noise = vec![0.0; self.latents.len()];
            Random::new(self.seed, Purpose::StepNoise, self.next_step as u64, self.image_index)
                .normals(&mut noise);
            noise
        });
        self.predicted =
            Some(self.scheduler.predicted_x0(self.next_step, &model_pred, &self.latents));
        self.scheduler.step(self.next_step, &model_pred, &mut self.latents, noise.as_deref());
        self.next_step += 1;
        self.hold();
        Ok(())
    }

    /// Puts back what stays of the image that was started from.
    fn hold(&mut self) {
        let Some(Held { clean, noise, mask }) = &self.held else { return };
        let held = self.scheduler.add_noise_at(self.next_step, clean, noise);
        let cells = mask.len();
        for (index, (value, held)) in self.latents.iter_mut().zip(held).enumerate() {
            let share = mask[index % cells];
            *value = share * *value + (1.0 - share) * held;
        }
    }
}

fn latent_shape(base: &BaseModel, request: &SampleRequest) -> Result<(usize, usize, usize)> {
    let (width, height, factor) = (request.width, request.height, base.vae.factor());
    if width == 0 || height == 0 || !width.is_multiple_of(factor) || !height.is_multiple_of(factor)
    {
        let text = format!(
            "an image of {width}×{height} cannot be generated: both must be multiples of {factor}"
        );
        return Err(EngineError::InvalidInput(text));
    }
    Ok((base.vae.config().latent_channels, height / factor, width / factor))
}
