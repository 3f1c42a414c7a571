//! What Custom Diffusion trains, and the gradient of the loss with respect to it.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use super::captions::{Captions, FrozenFeatures};
use crate::domain::training::TrainingRecipe;
use crate::engine::error::Result;
use crate::engine::ops;
use crate::engine::training::{FrozenModel, Method, Parameter};

/// The trained tensors: every cross-attention's key and value projection, and one embedding row per modifier token.
pub struct Parameters {
    /// All projections below one another, `(Σ 2·inner, text_dim)`, each layer's `to_k` before its `to_v`.
    pub projections: Tensor,
    /// `(modifier tokens, text_dim)`; `None` if no concept has a modifier token.
    pub modifier_rows: Option<Tensor>,
    layers: Vec<LayerRows>,
    weight_decay: f64,
    token_learning_rate_factor: f64,
    detach_first_token: bool,
    frozen: FrozenFeatures,
}

/// Where one cross-attention lies in the stack: `inner` rows of keys from `start`, then `inner` rows of values.
struct LayerRows {
    name: String,
    start: usize,
    inner: usize,
}

impl Parameters {
    /// Starts from the base model's projections and the given `(modifier tokens, text_dim)` rows.
    pub fn new(
        base: FrozenModel<'_>,
        modifier_rows: Option<Tensor>,
        recipe: &TrainingRecipe,
    ) -> Result<Self> {
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
        Ok(Self {
            projections: Tensor::cat(&stack, 0)?,
            modifier_rows,
            layers,
            weight_decay: recipe.weight_decay,
            token_learning_rate_factor: recipe.token_learning_rate_factor,
            detach_first_token: recipe.detach_first_token,
            frozen: FrozenFeatures::default(),
        })
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
}

/// The backward pass through the UNet stops at K and V. What lies above them is two products, `dW = d(KV)ᵀ c` and
/// `dc = d(KV) W`, followed by the text encoder's own backward pass for the captions that have a modifier token.
impl Method for Parameters {
    type Forward = Captions;

    /// The projections; then, if there are any, the modifier rows, which do not decay.
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let projections = Parameter {
            name: "projections",
            value: &self.projections,
            weight_decay: self.weight_decay,
            learning_rate_factor: 1.0,
        };
        let modifier_rows = self.modifier_rows.as_ref().map(|value| Parameter {
            name: "modifier_rows",
            value,
            weight_decay: 0.0,
            learning_rate_factor: self.token_learning_rate_factor,
        });
        std::iter::once(projections).chain(modifier_rows).collect()
    }

    fn set_parameters(&mut self, values: Vec<Tensor>) {
        let own = std::iter::once(&mut self.projections).chain(&mut self.modifier_rows);
        for (own, value) in own.zip(values) {
            *own = value;
        }
    }

    fn key_values(
        &mut self,
        base: FrozenModel<'_>,
        input_ids: &[Vec<u32>],
    ) -> Result<(Tensor, Captions)> {
        let rows = self.modifier_rows.as_ref();
        let captions = Captions::encode(base, input_ids, rows, &mut self.frozen)?;
        let (batch, tokens, _) = captions.features.dims3()?;
        let features = captions.features.flatten(0, 1)?;
        let key_values = ops::matmul(&features, &self.projections.t()?)?;
        Ok((key_values.reshape((batch, tokens, ()))?, captions))
    }

    fn gradients(&self, captions: Captions, d_key_values: &Tensor) -> Result<Vec<Tensor>> {
        let (batch, tokens, width) = captions.features.dims3()?;
        // The stop-gradient on the start token's key and value: its row takes part in neither product.
        let first = usize::from(self.detach_first_token);
        let kept = |x: &Tensor| x.narrow(1, first, tokens - first)?.flatten(0, 1)?.contiguous();
        let d_flat = kept(d_key_values)?; // (batch·tokens, Σ 2·inner)
        let features = kept(&captions.features)?;
        let of_modifier_rows = || -> Result<Option<Tensor>> {
            let Some(rows) = &self.modifier_rows else { return Ok(None) };
            let d_features = ops::matmul(&d_flat, &self.projections)?;
            let d_features = d_features.reshape((batch, tokens - first, width))?;
            let d_features = d_features.pad_with_zeros(1, first, 0)?;
            Ok(Some(captions.modifier_gradient(rows, &d_features)?))
        };
        let (projections, modifier_rows) =
            rayon::join(|| ops::matmul(&d_flat.t()?, &features), of_modifier_rows);
        Ok(std::iter::once(projections?).chain(modifier_rows?).collect())
    }
}
