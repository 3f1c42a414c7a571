//! One denoising step of a batch.

use candle_core::{DType, Device, Tensor};

use super::state::DenoisingState;
use crate::engine::base_model::BaseModel;
use crate::engine::error::Result;
use crate::engine::key_values::KeyValues;
use crate::engine::unet::Watched;

/// Takes each image one step further.
pub fn step(base: &BaseModel, states: &mut [&mut DenoisingState]) -> Result<()> {
    states.sort_by_key(|state| state.batch_key(base)); // stable
    states
        .chunk_by_mut(|a, b| a.batch_key(base).shares_with(&b.batch_key(base)))
        .try_for_each(|alike| step_alike(base, alike))
}

/// The elements whose attention is kept: of each image that asks for it, the one of its prompt.
fn watched(states: &[&mut DenoisingState]) -> Vec<Watched> {
    let mut watched = Vec::new();
    let mut end = 0;
    for state in states {
        end += state.elements();
        if let Some(maps) = &state.attention {
            watched.push(Watched { element: end - 1, groups: maps.groups().to_vec() });
        }
    }
    watched
}

/// One step of images that share a call.
fn step_alike(base: &BaseModel, states: &mut [&mut DenoisingState]) -> Result<()> {
    let (channels, height, width) = states[0].shape;
    let mut latents = Vec::new();
    let mut timesteps = Vec::new();
    for state in states.iter() {
        let scaled = state.scheduler.scale_model_input(state.next_step, &state.latents);
        for _ in 0..state.elements() {
            latents.extend_from_slice(&scaled);
            timesteps.push(state.scheduler.timesteps()[state.next_step]);
        }
    }
    let latents =
        Tensor::from_vec(latents, (timesteps.len(), channels, height, width), &base.device)?;
    let parts =
        states.iter().flat_map(|state| state.negative().into_iter().chain([&state.prompts.prompt]));
    let key_values = KeyValues::cat(&parts.collect::<Vec<_>>())?;

    let watched = watched(states);
    let (model_pred, attention) =
        base.unet.forward_watched(&latents, &timesteps, &key_values, &watched)?; // (elements, c, h, w)
    for (seen, state) in
        attention.iter().zip(states.iter_mut().filter(|state| state.attention.is_some()))
    {
        state.attention.as_mut().into_iter().for_each(|maps| maps.add(seen));
    }

    let predictions: Vec<f32> =
        model_pred.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    let mut rest = predictions.as_slice();
    for state in states.iter_mut() {
        let (own, others) = rest.split_at(state.elements() * state.latents.len());
        state.advance(own)?;
        rest = others;
    }
    Ok(())
}
