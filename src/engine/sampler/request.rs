//! The request for one image.

use std::sync::Arc;

use crate::domain::sample::{Determinism, SchedulerName};
use crate::engine::conditioning::ConceptUse;

/// One image to generate.
#[derive(Clone)]
pub struct SampleRequest {
    pub prompt: String,
    /// What guidance leads away from. Empty for ordinary unconditional guidance.
    pub negative_prompt: String,
    pub concepts: Vec<ConceptUse>,
    pub seed: u64,
    /// The index among the images of this seed.
    pub image_index: u64,
    pub num_inference_steps: usize,
    /// 1 (or less) generates without guidance.
    pub guidance_scale: f64,
    /// How much of the concepts the negative prompt's K and V have: 1 as in the paper, 0 for the base model's (ADR
    /// 0011).
    pub unconditional_strength: f64,
    /// Between which points of the denoising, from 0 (noise) to 1 (image), guidance is applied: the first and last noise
    /// level of Kynkäänniemi et al. (arXiv:2404.07724), as `1 − t / num_train_timesteps`. Outside of it the image takes
    /// one element instead of two.
    pub guidance_interval: [f64; 2],
    pub scheduler: SchedulerName,
    /// How stochastic DDIM is: 0 not at all, 1 as the paper samples.
    pub eta: f64,
    pub width: usize,
    pub height: usize,
    /// What to start from instead of noise alone.
    pub init: Option<InitImage>,
    pub determinism: Determinism,
}

/// An image to start from, and the share of the steps that are taken.
#[derive(Clone)]
pub struct InitImage {
    /// From [`encode_init`](super::encode_init).
    pub latents: Arc<[f32]>,
    /// The share of the steps that are taken, in (0, 1]: 1 leaves little of the image.
    pub noise_strength: f64,
    /// How much of each latent cell is generated, `height · width` numbers from 0 to 1: where it is 0, the image stays.
    /// Everything is generated if there is none.
    pub mask: Option<Arc<[f32]>>,
}

impl SampleRequest {
    /// Whether a step takes two predictions of the model, by the same rule as in diffusers.
    pub fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// The most elements that the image takes in one call of the UNet.
    pub fn max_elements(&self) -> usize {
        if self.is_guided() { 2 } else { 1 }
    }

    /// Steps left out at the beginning, as diffusers counts them.
    pub(super) fn skipped_steps(&self) -> usize {
        let Some(init) = &self.init else { return 0 };
        let taken = (self.num_inference_steps as f64 * init.noise_strength) as usize;
        self.num_inference_steps - taken.min(self.num_inference_steps)
    }
}
