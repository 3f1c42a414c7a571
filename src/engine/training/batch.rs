//! What one training step works on: the frozen networks, and a batch of images with their captions.

use candle_core::Tensor;

use crate::engine::base_model::BaseModel;
use crate::engine::clip::ClipTextEncoder;
use crate::engine::schedulers::SchedulerConfig;
use crate::engine::unet::UNet2DConditionModel;

/// The parts of a base model that a training differentiates through without changing them.
#[derive(Clone, Copy)]
pub struct FrozenModel<'a> {
    pub unet: &'a UNet2DConditionModel,
    pub text_encoder: &'a ClipTextEncoder,
    pub scheduler: &'a SchedulerConfig,
}

impl<'a> From<&'a BaseModel> for FrozenModel<'a> {
    fn from(base: &'a BaseModel) -> Self {
        Self {
            unet: &base.unet,
            text_encoder: base.prompt_encoder.text_encoder(),
            scheduler: &base.scheduler,
        }
    }
}

/// One training batch; the first token of every caption is the start token.
pub struct Batch {
    /// Scaled latents, `(batch, channels, height, width)`.
    pub latents: Tensor,
    /// Standard normal, the shape of `latents`.
    pub noise: Tensor,
    /// One per element.
    pub timesteps: Vec<u32>,
    /// One caption per element; ids from the vocabulary's size on are modifier tokens in their order.
    pub input_ids: Vec<Vec<u32>>,
    /// `(batch, 1, height, width)`: how much a latent cell counts in the loss, from 0 to 1.
    pub mask: Tensor,
    pub is_class_image: Vec<bool>,
}
