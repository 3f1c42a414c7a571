//! Prompts to images: the denoising loop, from noise or an image to decoded pixels.

mod attention_maps;
mod batch_key;
mod decoding;
mod init_image;
mod prompts;
mod request;
mod running_batch;
mod state;
mod step;

use image::RgbImage;

use self::batch_key::BatchKey;
use self::decoding::{decode, to_rgb};
use super::base_model::BaseModel;
use super::error::{EngineError, Result};
use super::flow::Flow;

pub use self::attention_maps::AttentionMaps;
pub use self::init_image::{cover, encode_init};
pub use self::prompts::PromptKeyValues;
pub use self::request::{InitImage, SampleRequest};
pub use self::running_batch::{RunningBatch, RunningImage};
pub use self::state::DenoisingState;
pub use self::step::step;

/// Generates a batch of images. Each has the bytes that it would have alone.
///
/// `observe` is called after each step with its number and the total, and may stop the denoising.
///
/// # Errors
/// [`EngineError::Stopped`] if `observe` said so, [`EngineError::InvalidInput`] for a request that does not fit the model,
/// [`EngineError::NotFinite`] for an image that overflows.
pub fn sample(
    base: &BaseModel,
    requests: &[SampleRequest],
    observe: &mut dyn FnMut(usize, usize) -> Flow,
) -> Result<Vec<RgbImage>> {
    let states = requests.iter().map(|request| DenoisingState::new(base, request));
    let states = denoise(base, states.collect::<Result<_>>()?, observe)?;
    images(base, &states.iter().collect::<Vec<_>>())
}

/// Takes all steps of all images; one with fewer steps than others leaves the batch early.
///
/// # Errors
/// As for [`sample`].
pub fn denoise(
    base: &BaseModel,
    states: Vec<DenoisingState>,
    observe: &mut dyn FnMut(usize, usize) -> Flow,
) -> Result<Vec<DenoisingState>> {
    let steps = states.iter().map(DenoisingState::remaining).max().unwrap_or(0);
    let mut batch = RunningBatch::new(usize::MAX);
    for (owner, state) in states.into_iter().enumerate() {
        batch.join(RunningImage { owner, state, scale: 1 });
    }
    let mut finished = batch.take_finished();
    for done in 1..=steps {
        let mut result = Ok(());
        batch.step(
            base,
            |_, call| call(),
            |_, taken| {
                if result.is_ok() {
                    result = taken;
                }
            },
        );
        result?;
        finished.extend(batch.take_finished());
        if observe(done, steps) == Flow::Stop {
            return Err(EngineError::Stopped);
        }
    }
    finished.sort_by_key(|image| image.owner);
    Ok(finished.into_iter().map(|image| image.state).collect())
}

/// The images of states that have no steps left, in their order; those that share calls are decoded in one.
pub fn images(base: &BaseModel, states: &[&DenoisingState]) -> Result<Vec<RgbImage>> {
    let mut order: Vec<(BatchKey, usize)> =
        states.iter().enumerate().map(|(index, state)| (state.batch_key(base), index)).collect();
    order.sort_unstable(); // by key, then by index
    let mut images = Vec::with_capacity(states.len());
    for call in order.chunk_by(|(a, _), (b, _)| a.shares_with(b)) {
        let latents: Vec<&[f32]> = call.iter().map(|&(_, index)| &*states[index].latents).collect();
        let decoded = decode(base, &latents, call[0].0.shape)?; // (batch, 3, height, width)
        for (nth, &(_, index)) in call.iter().enumerate() {
            images.push((index, to_rgb(&decoded.get(nth)?)?));
        }
    }
    images.sort_by_key(|(index, _)| *index);
    Ok(images.into_iter().map(|(_, image)| image).collect())
}
