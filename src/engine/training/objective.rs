//! The loss of a batch, and its gradient with respect to the keys and values that the UNet attends to.

use candle_core::{DType, Tensor};

use super::batch::{Batch, FrozenModel};
use super::loss::{error_weights, weighted_squared_error};
use crate::engine::autograd::{Tape, Variable};
use crate::engine::error::{EngineError, Result};
use crate::engine::key_values::KeyValues;
use crate::engine::schedulers::PredictionType;
use crate::engine::unet::{Activations, CrossAttentionKv, KeyValueVariable};

/// The parts of the objective that are not data.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    pub prediction_type: PredictionType,
    pub prior_loss_weight: f64,
    pub activations: Activations,
}

impl Objective {
    /// The loss, and its gradient with respect to all keys and values.
    ///
    /// K and V are leaves of the tape: the backward pass through the UNet stops there.
    ///
    /// - `key_values`: of all layers side by side, each layer's keys before its values, `(batch, tokens, Σ 2·inner)`
    /// - returns the gradient in the same shape, in f32
    pub(crate) fn key_value_gradient(
        &self,
        base: FrozenModel<'_>,
        batch: &Batch,
        key_values: &Tensor,
    ) -> Result<(f32, Tensor)> {
        let (noisy_latents, target) = diffuse(base, batch, self.prediction_type)?;
        let timesteps: Vec<f32> = batch.timesteps.iter().map(|&t| t as f32).collect();
        let channels = batch.latents.dim(1)?;
        let recomputation = base.unet.recomputation(self.activations, &batch.latents)?;
        let weights =
            error_weights(&batch.mask, &batch.is_class_image, channels, self.prior_loss_weight)?;
        let part = |range: std::ops::Range<usize>| -> Result<(Vec<f64>, Tensor)> {
            let elements = |x: &Tensor| x.narrow(0, range.start, range.len());
            let channels_last = |x: &Tensor| elements(x)?.permute((0, 2, 3, 1))?.contiguous();
            let tape = Tape::default();
            let layers = base.unet.cross_attention();
            let leaves = leaves(&tape, layers, &elements(key_values)?, base.unet.dtype())?;
            let model_pred = base.unet.trace(
                &channels_last(&noisy_latents)?,
                &timesteps[range.clone()],
                leaves.clone(),
                &recomputation,
            )?; // (elements, height, width, channels)
            let (losses, gradient) = weighted_squared_error(
                model_pred.tensor(),
                &channels_last(&target)?,
                &channels_last(&weights)?,
            )?;
            let mut gradients = tape.backward(&model_pred, gradient)?;
            let mut parts = Vec::with_capacity(2 * leaves.len());
            for leaf in leaves.iter().flat_map(|kv| [&kv.key, &kv.value]) {
                let gradient = gradients.take(leaf).ok_or_else(|| {
                    EngineError::InvalidInput(
                        "a cross-attention layer does not reach the prediction".into(),
                    )
                })?;
                parts.push(gradient.to_dtype(DType::F32)?);
            }
            Ok((losses, Tensor::cat(&parts, 2)?))
        };
        let parts = base.unet.split().map(timesteps.len(), part)?;
        let loss: f64 = parts.iter().flat_map(|(losses, _)| losses).sum();
        let gradients: Vec<&Tensor> = parts.iter().map(|(_, gradient)| gradient).collect();
        Ok((loss as f32, Tensor::cat(&gradients, 0)?))
    }

    /// Each element's share of the loss, without a backward pass.
    ///
    /// - `key_values`: one caption per element of the batch
    pub(crate) fn element_losses(
        &self,
        base: FrozenModel<'_>,
        batch: &Batch,
        key_values: &KeyValues,
    ) -> Result<Vec<f64>> {
        let (noisy_latents, target) = diffuse(base, batch, self.prediction_type)?;
        let timesteps: Vec<f32> = batch.timesteps.iter().map(|&t| t as f32).collect();
        let channels = batch.latents.dim(1)?;
        let weights =
            error_weights(&batch.mask, &batch.is_class_image, channels, self.prior_loss_weight)?;
        let model_pred = base.unet.forward(&noisy_latents, &timesteps, key_values)?;
        let channels_last = |x: &Tensor| x.permute((0, 2, 3, 1))?.contiguous();
        let (losses, _) = weighted_squared_error(
            &channels_last(&model_pred)?,
            &channels_last(&target)?,
            &channels_last(&weights)?,
        )?;
        Ok(losses)
    }
}

/// K and V of every layer as leaves, from all of them side by side.
fn leaves(
    tape: &Tape,
    layers: &[CrossAttentionKv],
    all: &Tensor,
    dtype: DType,
) -> Result<Vec<KeyValueVariable>> {
    let mut start = 0;
    let mut leaf = |inner: usize| -> Result<Variable> {
        let of_layer = all.narrow(2, start, inner)?.contiguous()?.to_dtype(dtype)?;
        start += inner;
        Ok(tape.leaf(of_layer))
    };
    let layer = |layer: &CrossAttentionKv| -> Result<KeyValueVariable> {
        Ok(KeyValueVariable::new(leaf(layer.to_k.dim(0)?)?, leaf(layer.to_v.dim(0)?)?))
    };
    layers.iter().map(layer).collect()
}

/// `x_t = √ᾱ x₀ + √(1−ᾱ) ε`, and what the model is asked to predict from it.
fn diffuse(
    base: FrozenModel<'_>,
    batch: &Batch,
    prediction_type: PredictionType,
) -> Result<(Tensor, Tensor)> {
    let alphas_cumprod = base.scheduler.alphas_cumprod();
    let column = |f: &dyn Fn(f64) -> f64| {
        let values: Vec<f32> =
            batch.timesteps.iter().map(|&t| f(alphas_cumprod[t as usize]) as f32).collect();
        Tensor::from_vec(values, (batch.timesteps.len(), 1, 1, 1), batch.latents.device())
    };
    let signal = column(&f64::sqrt)?;
    let noise = column(&|alpha| (1.0 - alpha).sqrt())?;
    let noisy_latents =
        (batch.latents.broadcast_mul(&signal)? + batch.noise.broadcast_mul(&noise)?)?;
    let target = match prediction_type {
        PredictionType::Epsilon => batch.noise.clone(),
        PredictionType::VPrediction => {
            (batch.noise.broadcast_mul(&signal)? - batch.latents.broadcast_mul(&noise)?)?
        }
        PredictionType::Sample => batch.latents.clone(),
    };
    Ok((noisy_latents.to_dtype(base.unet.dtype())?, target))
}
