//! What a training learns, and the gradient of the loss with respect to it.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Tensor, Var};

use crate::engine::base_model::BaseModel;
use crate::engine::clip::ClipTextEncoder;
use crate::engine::conditioning::{Conditioning, KeyValue};
use crate::engine::custom_diffusion::loss::{error_weights, weighted_squared_error};
use crate::engine::schedulers::{PredictionType, SchedulerConfig};
use crate::engine::unet::UNet2DConditionModel;
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
        let modifier_rows = self.modifier_rows.as_ref().map(Var::from_tensor).transpose()?;
        let captions = Captions::encode(base, &batch.input_ids, modifier_rows.as_ref(), frozen)?;
        let (leaves, conditioning) = self.key_value_leaves(&captions.features, base)?;

        let (noisy_latents, target) = diffuse(base, batch, objective.prediction_type)?;
        let timesteps: Vec<f32> = batch.timesteps.iter().map(|&t| t as f32).collect();
        let model_pred = base.unet.forward(&noisy_latents, &timesteps, &conditioning)?;
        let channels = batch.latents.dim(1)?;
        let weights = error_weights(
            &batch.mask,
            &batch.is_class_image,
            channels,
            objective.prior_loss_weight,
        )?;
        let loss = weighted_squared_error(&model_pred, &target, &weights)?;

        let gradients = loss.backward()?;
        let mut parts = Vec::with_capacity(leaves.len());
        for leaf in &leaves {
            let gradient = gradients.get(leaf).ok_or_else(|| {
                EngineError::InvalidInput(
                    "a cross-attention layer does not reach the prediction".into(),
                )
            })?;
            parts.push(gradient.detach().to_dtype(DType::F32)?);
        }
        drop(gradients);
        let d_key_value = Tensor::cat(&parts, 2)?; // (batch, tokens, Σ 2·inner)

        // The stop-gradient on the start token's key and value: its row takes part in neither product.
        let first = usize::from(objective.detach_first_token);
        let tokens = d_key_value.dim(1)? - first;
        let d_key_value = d_key_value.narrow(1, first, tokens)?.contiguous()?;
        let features = captions.features.narrow(1, first, tokens)?.contiguous()?;
        let d_flat = d_key_value.flatten(0, 1)?; // (batch·tokens, Σ 2·inner)
        let projections = d_flat.t()?.matmul(&features.flatten(0, 1)?)?;

        let modifier_rows = match modifier_rows {
            Some(rows) => {
                let d_features = d_flat.matmul(&self.projections)?.reshape(features.shape())?;
                let d_features = d_features.pad_with_zeros(1, first, 0)?;
                Some(captions.modifier_gradient(&rows, &d_features)?)
            }
            None => None,
        };
        Ok(LossGradient { loss: loss.to_scalar()?, projections, modifier_rows })
    }

    /// K and V of every layer as fresh leaves, in the order of the stack, and as the UNet takes them.
    fn key_value_leaves(
        &self,
        features: &Tensor,
        base: FrozenModel<'_>,
    ) -> Result<(Vec<Var>, Conditioning)> {
        let (batch, tokens, width) = features.dims3()?;
        let all = features.reshape((batch * tokens, width))?.matmul(&self.projections.t()?)?;
        let all = all.reshape((batch, tokens, ()))?; // (batch, tokens, Σ 2·inner)
        let dtype = base.unet.dtype();
        let mut leaves = Vec::with_capacity(2 * self.layers.len());
        let mut layers = Vec::with_capacity(self.layers.len());
        for LayerRows { start, inner, .. } in &self.layers {
            let key =
                Var::from_tensor(&all.narrow(2, *start, *inner)?.contiguous()?.to_dtype(dtype)?)?;
            let value = Var::from_tensor(
                &all.narrow(2, start + inner, *inner)?.contiguous()?.to_dtype(dtype)?,
            )?;
            layers
                .push(KeyValue { key: key.as_tensor().clone(), value: value.as_tensor().clone() });
            leaves.extend([key, value]);
        }
        Ok((leaves, Conditioning { layers }))
    }
}

/// The text features of a batch, and which of them depend on modifier rows.
struct Captions {
    /// `(batch, tokens, text_dim)`, f32, off the tape.
    features: Tensor,
    /// Features of the distinct captions with a modifier token, on the tape: `(live, tokens, text_dim)`.
    live: Option<Tensor>,
    /// For each batch row, its place in `live`.
    live_of_row: Vec<Option<usize>>,
}

impl Captions {
    fn encode(
        base: FrozenModel<'_>,
        input_ids: &[Vec<u32>],
        modifier_rows: Option<&Var>,
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
        let live = if distinct.is_empty() {
            None
        } else {
            Some(base.text_encoder.forward(&distinct, modifier_rows.map(Var::as_tensor))?)
        };
        let detached = live.as_ref().map(|live| live.detach().to_dtype(DType::F32)).transpose()?;
        let mut rows = Vec::with_capacity(input_ids.len());
        for (ids, live_row) in input_ids.iter().zip(&live_of_row) {
            rows.push(match (live_row, &detached) {
                (Some(row), Some(live)) => live.narrow(0, *row, 1)?,
                (Some(_), None) | (None, _) => frozen.of(base, ids)?,
            });
        }
        Ok(Self { features: Tensor::cat(&rows, 0)?, live, live_of_row })
    }

    /// Takes `d_features` `(batch, tokens, text_dim)` back through the text encoder to the modifier rows.
    fn modifier_gradient(&self, modifier_rows: &Var, d_features: &Tensor) -> Result<Tensor> {
        let Some(live) = &self.live else { return Ok(modifier_rows.zeros_like()?) };
        let mut sums: Vec<Option<Tensor>> = vec![None; live.dim(0)?];
        for (row, live_row) in self.live_of_row.iter().enumerate() {
            if let Some(live_row) = live_row {
                let d_row = d_features.narrow(0, row, 1)?;
                sums[*live_row] = Some(match sums[*live_row].take() {
                    Some(sum) => (sum + d_row)?,
                    None => d_row,
                });
            }
        }
        let seed = Tensor::cat(&sums.into_iter().flatten().collect::<Vec<_>>(), 0)?;
        let seeded = (live.to_dtype(DType::F32)? * seed)?.sum_all()?; // its gradient is the seed
        let gradients = seeded.backward()?;
        match gradients.get(modifier_rows) {
            Some(gradient) => Ok(gradient.detach().to_dtype(DType::F32)?),
            None => Ok(modifier_rows.zeros_like()?),
        }
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
