//! What a training learns, and the gradient of the loss with respect to it.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Tensor};
use rayon::prelude::*;

use crate::engine::autograd::{Tape, Variable};
use crate::engine::base_model::BaseModel;
use crate::engine::clip::ClipTextEncoder;
use crate::engine::custom_diffusion::loss::{error_weights, weighted_squared_error};
use crate::engine::ops;
use crate::engine::schedulers::{PredictionType, SchedulerConfig};
use crate::engine::unet::{Activations, KeyValueVariable, UNet2DConditionModel};
use crate::engine::{EngineError, Result};

/// The parts of a base model that a training differentiates through without changing them.
#[derive(Clone, Copy)]
pub struct FrozenModel<'a> {
    pub unet: &'a UNet2DConditionModel,
    pub text_encoder: &'a ClipTextEncoder,
    pub scheduler: &'a SchedulerConfig,
}

impl<'a> From<&'a BaseModel> for FrozenModel<'a> {
    fn from(base: &'a BaseModel) -> Self {
        Self { unet: &base.unet, text_encoder: &base.text_encoder, scheduler: &base.scheduler }
    }
}

/// The trainable numbers: every cross-attention's key and value projection, and one row per modifier token.
pub struct Parameters {
    /// All projections below one another, `(Σ 2·inner, text_dim)`, each layer's `to_k` before its `to_v`.
    pub projections: Tensor,
    /// `(modifier tokens, text_dim)`; `None` if no concept has a modifier token.
    pub modifier_rows: Option<Tensor>,
    layers: Vec<LayerRows>,
}

/// Where one cross-attention lies in the stack: `inner` rows of keys from `start`, then `inner` rows of values.
struct LayerRows {
    name: String,
    start: usize,
    inner: usize,
}

/// One training batch; the first token of every caption is the start token.
pub struct Batch {
    /// Scaled latents, `(batch, channels, height, width)`.
    pub latents: Tensor,
    /// Standard normal, the shape of `latents`.
    pub noise: Tensor,
    /// One per row.
    pub timesteps: Vec<u32>,
    /// One caption per row; ids from the vocabulary's size on are modifier tokens in their order.
    pub input_ids: Vec<Vec<u32>>,
    /// `(batch, 1, height, width)`, 1 where a latent cell counts in the loss.
    pub mask: Tensor,
    pub is_class_image: Vec<bool>,
}

/// What of the objective is not data.
#[derive(Clone, Copy, Debug)]
pub struct Objective {
    pub prediction_type: PredictionType,
    pub prior_loss_weight: f64,
    pub detach_first_token: bool,
    pub activations: Activations,
}

/// The loss of a batch and its gradient, shaped like [`Parameters`].
pub struct LossGradient {
    pub loss: f32,
    pub projections: Tensor,
    pub modifier_rows: Option<Tensor>,
}

/// Text features of captions without a modifier token, which do not change while training.
#[derive(Default)]
pub struct FrozenFeatures(HashMap<Vec<u32>, Tensor>);

impl Parameters {
    /// Starts from the base model's projections and the given `(modifier tokens, text_dim)` rows.
    pub fn new(base: FrozenModel<'_>, modifier_rows: Option<Tensor>) -> Result<Self> {
        let mut layers = Vec::new();
        let mut stack = Vec::new();
        let mut start = 0;
        for layer in base.unet.cross_attention() {
            let inner = layer.to_k.dim(0)?;
            layers.push(LayerRows { name: layer.name.clone(), start, inner });
            stack.push(layer.to_k.to_dtype(DType::F32)?);
            stack.push(layer.to_v.to_dtype(DType::F32)?);
            start += 2 * inner;
        }
        Ok(Self { projections: Tensor::cat(&stack, 0)?, modifier_rows, layers })
    }

    /// The projections as matrices `(inner, text_dim)`, by checkpoint name; works for their gradient too.
    pub fn by_name(&self, projections: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        let mut named = BTreeMap::new();
        for LayerRows { name, start, inner } in &self.layers {
            named.insert(
                format!("{name}.to_k.weight"),
                projections.narrow(0, *start, *inner)?.copy()?,
            );
            named.insert(
                format!("{name}.to_v.weight"),
                projections.narrow(0, start + inner, *inner)?.copy()?,
            );
        }
        Ok(named)
    }

    /// The objective's value and gradient on one batch.
    ///
    /// K and V are leaves of the tape: the backward pass through the UNet stops there, and what lies above them is
    /// two products, `dW = d(KV)ᵀ c` and `dc = d(KV) W`, followed by the text encoder's own backward pass for the
    /// captions that hold a modifier token.
    pub fn loss_gradient(
        &self,
        base: FrozenModel<'_>,
        batch: &Batch,
        objective: Objective,
        frozen: &mut FrozenFeatures,
    ) -> Result<LossGradient> {
        let captions =
            Captions::encode(base, &batch.input_ids, self.modifier_rows.as_ref(), frozen)?;
        let (rows, tokens, width) = captions.features.dims3()?;
        let key_values = ops::matmul(&captions.features.flatten(0, 1)?, &self.projections.t()?)?;
        let key_values = key_values.reshape((rows, tokens, ()))?; // (batch, tokens, Σ 2·inner)
        let (loss, d_key_value) = self.through_unet(base, batch, objective, &key_values)?;

        // The stop-gradient on the start token's key and value: its row takes part in neither product.
        let first = usize::from(objective.detach_first_token);
        let kept = |x: &Tensor| x.narrow(1, first, tokens - first)?.flatten(0, 1)?.contiguous();
        let d_flat = kept(&d_key_value)?; // (batch·tokens, Σ 2·inner)
        let features = kept(&captions.features)?;
        let of_modifier_rows = || -> Result<Option<Tensor>> {
            let Some(rows_now) = &self.modifier_rows else { return Ok(None) };
            let d_features = ops::matmul(&d_flat, &self.projections)?;
            let d_features = d_features.reshape((rows, tokens - first, width))?;
            let d_features = d_features.pad_with_zeros(1, first, 0)?;
            Ok(Some(captions.modifier_gradient(rows_now, &d_features)?))
        };
        let (projections, modifier_rows) =
            rayon::join(|| ops::matmul(&d_flat.t()?, &features), of_modifier_rows);
        let (projections, modifier_rows) = (projections?, modifier_rows?);
        Ok(LossGradient { loss, projections, modifier_rows })
    }

    /// The loss, and its gradient with respect to all keys and values, `(batch, tokens, Σ 2·inner)`.
    fn through_unet(
        &self,
        base: FrozenModel<'_>,
        batch: &Batch,
        objective: Objective,
        key_values: &Tensor,
    ) -> Result<(f32, Tensor)> {
        let (noisy_latents, target) = diffuse(base, batch, objective.prediction_type)?;
        let timesteps: Vec<f32> = batch.timesteps.iter().map(|&t| t as f32).collect();
        let channels = batch.latents.dim(1)?;
        let recomputation = base.unet.recomputation(objective.activations, &batch.latents)?;
        let weights = error_weights(
            &batch.mask,
            &batch.is_class_image,
            channels,
            objective.prior_loss_weight,
        )?;
        let part = |range: std::ops::Range<usize>| -> Result<(Vec<f64>, Tensor)> {
            let rows = |x: &Tensor| x.narrow(0, range.start, range.len());
            let channels_last = |x: &Tensor| rows(x)?.permute((0, 2, 3, 1))?.contiguous();
            let tape = Tape::default();
            let leaves = self.leaves(&tape, &rows(key_values)?, base.unet.dtype())?;
            let model_pred = base.unet.trace(
                &channels_last(&noisy_latents)?,
                &timesteps[range.clone()],
                leaves.clone(),
                &recomputation,
            )?; // (rows, height, width, channels)
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

    /// K and V of every layer as leaves, from all of them side by side.
    fn leaves(&self, tape: &Tape, all: &Tensor, dtype: DType) -> Result<Vec<KeyValueVariable>> {
        let leaf = |start: usize, inner: usize| -> Result<Variable> {
            Ok(tape.leaf(all.narrow(2, start, inner)?.contiguous()?.to_dtype(dtype)?))
        };
        let layer = |LayerRows { start, inner, .. }: &LayerRows| {
            Ok(KeyValueVariable { key: leaf(*start, *inner)?, value: leaf(start + inner, *inner)? })
        };
        self.layers.iter().map(layer).collect()
    }
}

/// The text features of a batch, and which of them depend on modifier rows.
struct Captions {
    /// `(batch, tokens, text_dim)`, f32.
    features: Tensor,
    live: Vec<Live>,
    /// For each batch row, its place among the live captions of all parts.
    live_of_row: Vec<Option<usize>>,
}

/// Some of the distinct captions with a modifier token.
struct Live {
    tape: Tape,
    /// Each caption has its own copy of the modifier rows, `(live · n, text_dim)`: their gradients are added up in one
    /// order, however the captions are shared out.
    modifier_rows: Variable,
    /// `(live, tokens, text_dim)`.
    features: Variable,
}

impl Live {
    fn encode(
        base: FrozenModel<'_>,
        captions: &[Vec<u32>],
        modifier_rows: &Tensor,
    ) -> Result<Self> {
        let vocab_size = base.text_encoder.vocab_size() as u32;
        let count = modifier_rows.dim(0)?;
        let own_rows = |(caption, ids): (usize, &Vec<u32>)| -> Vec<u32> {
            let offset = (caption * count) as u32;
            ids.iter().map(|&id| if id >= vocab_size { id + offset } else { id }).collect()
        };
        let ids: Vec<Vec<u32>> = captions.iter().enumerate().map(own_rows).collect();
        let tape = Tape::default();
        let modifier_rows = tape.leaf(modifier_rows.repeat((captions.len(), 1))?);
        let features = base.text_encoder.trace(&ids, Some(&modifier_rows))?;
        Ok(Self { tape, modifier_rows, features })
    }

    /// Takes `d_features` `(live, tokens, text_dim)` back to the copies of the modifier rows.
    fn gradient(self, d_features: &Tensor) -> Result<Tensor> {
        let d_features = d_features.contiguous()?.to_dtype(self.features.tensor().dtype())?;
        let mut gradients = self.tape.backward(&self.features, d_features)?;
        match gradients.take(&self.modifier_rows) {
            Some(gradient) => Ok(gradient.to_dtype(DType::F32)?),
            None => Ok(self.modifier_rows.tensor().zeros_like()?),
        }
    }
}

impl Captions {
    fn encode(
        base: FrozenModel<'_>,
        input_ids: &[Vec<u32>],
        modifier_rows: Option<&Tensor>,
        frozen: &mut FrozenFeatures,
    ) -> Result<Self> {
        let vocab_size = base.text_encoder.vocab_size() as u32;
        let mut distinct: Vec<Vec<u32>> = Vec::new();
        let live_of_row: Vec<Option<usize>> = input_ids
            .iter()
            .map(|ids| {
                ids.iter().any(|&id| id >= vocab_size).then(|| {
                    distinct.iter().position(|known| known == ids).unwrap_or_else(|| {
                        distinct.push(ids.clone());
                        distinct.len() - 1
                    })
                })
            })
            .collect();
        let live = match (modifier_rows, distinct.is_empty()) {
            (Some(rows), false) => base
                .text_encoder
                .split()
                .map(distinct.len(), |captions| Live::encode(base, &distinct[captions], rows))?,
            (_, true) => Vec::new(),
            (None, false) => {
                return Err(EngineError::InvalidInput(
                    "a caption has a modifier token, the parameters have none".into(),
                ));
            }
        };
        let mut live_features = Vec::new();
        for part in &live {
            let features = part.features.tensor().to_dtype(DType::F32)?;
            for row in 0..features.dim(0)? {
                live_features.push(features.narrow(0, row, 1)?);
            }
        }
        let mut rows = Vec::with_capacity(input_ids.len());
        for (ids, live_row) in input_ids.iter().zip(&live_of_row) {
            rows.push(match live_row {
                Some(row) => live_features[*row].clone(),
                None => frozen.of(base, ids)?,
            });
        }
        Ok(Self { features: Tensor::cat(&rows, 0)?, live, live_of_row })
    }

    /// Takes `d_features` `(batch, tokens, text_dim)` back through the text encoder to the modifier rows.
    fn modifier_gradient(self, modifier_rows: &Tensor, d_features: &Tensor) -> Result<Tensor> {
        let lives: usize = self.live.iter().map(|part| part.features.tensor().dims()[0]).sum();
        let mut sums: Vec<Option<Tensor>> = vec![None; lives];
        for (row, live_row) in self.live_of_row.iter().enumerate() {
            if let Some(live_row) = live_row {
                let d_row = d_features.narrow(0, row, 1)?;
                sums[*live_row] = Some(match sums[*live_row].take() {
                    Some(sum) => ops::sum(&sum, &d_row)?,
                    None => d_row,
                });
            }
        }
        let mut parts = Vec::with_capacity(self.live.len());
        let mut sums = sums.into_iter().flatten();
        for part in self.live {
            let count = part.features.tensor().dim(0)?;
            let d_features: Vec<Tensor> = sums.by_ref().take(count).collect();
            parts.push((part, Tensor::cat(&d_features, 0)?));
        }
        let of_captions: Vec<Tensor> = parts
            .into_par_iter()
            .map(|(part, d_features)| part.gradient(&d_features))
            .collect::<Result<_>>()?;
        let (n, dim) = modifier_rows.dims2()?;
        let mut gradient = modifier_rows.zeros_like()?;
        for of_part in of_captions {
            for of_caption in of_part.reshape(((), n, dim))?.chunk(of_part.dim(0)? / n, 0)? {
                gradient = (gradient + of_caption.squeeze(0)?)?;
            }
        }
        Ok(gradient)
    }
}

impl FrozenFeatures {
    fn of(&mut self, base: FrozenModel<'_>, ids: &[u32]) -> Result<Tensor> {
        if let Some(features) = self.0.get(ids) {
            return Ok(features.clone());
        }
        let features = base.text_encoder.forward(&[ids.to_vec()], None)?.to_dtype(DType::F32)?;
        self.0.insert(ids.to_vec(), features.clone());
        Ok(features)
    }
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
