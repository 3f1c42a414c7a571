//! What Custom Diffusion trains, and the gradient of the loss with respect to it.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::captions::{Captions, FrozenFeatures};
use super::delta_weights::DeltaWeights;
use super::projections::Projections;
use crate::domain::training::TrainingRecipe;
use crate::engine::error::Result;
use crate::engine::training::{FrozenModel, Method, Parameter};

/// The trained tensors: every cross-attention's key and value projection, and one embedding row per modifier token, as far as
/// the recipe's `learn` asks for them.
pub struct Parameters {
    projections: Projections,
    /// `(modifier tokens, text_dim)`; `None` if no concept has a modifier token.
    pub modifier_rows: Option<Tensor>,
    trains_modifier_rows: bool,
    weight_decay: f64,
    token_learning_rate_factor: f64,
    detach_first_token: bool,
    frozen: FrozenFeatures,
}

/// What parameters start from, apart from modifier rows.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Projections in place of the base model's, by checkpoint name, f32 on the CPU.
    pub projections: BTreeMap<String, Tensor>,
    /// Seed of the random factors of a low-rank training.
    pub seed: u64,
}

impl Parameters {
    /// Starts from the base model's projections and the given `(modifier tokens, text_dim)` rows.
    pub fn new(
        base: FrozenModel<'_>,
        modifier_rows: Option<Tensor>,
        recipe: &TrainingRecipe,
    ) -> Result<Self> {
        Self::starting_from(base, modifier_rows, recipe, &Start::default())
    }

    /// The same from other projections, or with another seed.
    pub fn starting_from(
        base: FrozenModel<'_>,
        modifier_rows: Option<Tensor>,
        recipe: &TrainingRecipe,
        start: &Start,
    ) -> Result<Self> {
        let layers = base.unet.cross_attention();
        Ok(Self {
            projections: Projections::new(layers, recipe, &start.projections, start.seed)?,
            modifier_rows,
            trains_modifier_rows: recipe.learn.modifier_token,
            weight_decay: recipe.weight_decay,
            token_learning_rate_factor: recipe.token_learning_rate_factor,
            detach_first_token: recipe.detach_first_token,
            frozen: FrozenFeatures::default(),
        })
    }

    /// Whole projections that are trained as matrices `(inner, text_dim)`, by checkpoint name.
    ///
    /// - `projections`: the parameter of that name, or its gradient
    pub fn by_name(&self, projections: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        self.projections.by_name(projections)
    }

    /// The projections that have been learned, on the CPU.
    ///
    /// - `start`: the weights of the delta that they started from, if any; its changes are among them
    pub(super) fn learned(&self, start: Option<&DeltaWeights>) -> Result<DeltaWeights> {
        self.projections.learned(start)
    }

    /// Puts other modifier rows in place, and returns those before.
    pub(super) fn replace_modifier_rows(&mut self, rows: Option<Tensor>) -> Option<Tensor> {
        self.frozen = FrozenFeatures::default();
        std::mem::replace(&mut self.modifier_rows, rows)
    }

    /// Whether the modifier rows are among the trained tensors.
    pub(super) fn trains_modifier_rows(&self) -> bool {
        self.trains_modifier_rows
    }

    fn trained_rows(&self) -> Option<&Tensor> {
        self.modifier_rows.as_ref().filter(|_| self.trains_modifier_rows)
    }
}

/// The backward pass through the UNet stops at K and V. What lies above them is two products, `dW = d(KV)ᵀ c` and
/// `dc = d(KV) W`, followed by the text encoder's own backward pass for the captions that have a modifier token.
impl Method for Parameters {
    type Forward = Captions;

    /// The projections; then, if there are any, the modifier rows, which do not decay.
    fn parameters(&self) -> Vec<Parameter<'_>> {
        let projections = self.projections.parameters().into_iter().map(|(name, value)| {
            Parameter { name, value, weight_decay: self.weight_decay, learning_rate_factor: 1.0 }
        });
        let modifier_rows = self.trained_rows().map(|value| Parameter {
            name: "modifier_rows",
            value,
            weight_decay: 0.0,
            learning_rate_factor: self.token_learning_rate_factor,
        });
        projections.chain(modifier_rows).collect()
    }

    fn set_parameters(&mut self, values: Vec<Tensor>) {
        let mut values = values.into_iter();
        self.projections.set(&mut values);
        if let (Some(rows), Some(value)) = (&mut self.modifier_rows, values.next()) {
            *rows = value;
        }
    }

    fn trains_text(&self) -> bool {
        self.trained_rows().is_some()
    }

    fn key_values(
        &mut self,
        base: FrozenModel<'_>,
        input_ids: &[Vec<u32>],
    ) -> Result<(Tensor, Captions)> {
        let (rows, traced) = (self.modifier_rows.as_ref(), self.trains_modifier_rows);
        let captions = Captions::encode(base, input_ids, rows, traced, &mut self.frozen)?;
        let (batch, tokens, _) = captions.features.dims3()?;
        let key_values = self.projections.project(&captions.features.flatten(0, 1)?)?;
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
            let Some(rows) = self.trained_rows() else { return Ok(None) };
            let d_features = self.projections.features_gradient(&d_flat)?;
            let d_features = d_features.reshape((batch, tokens - first, width))?;
            let d_features = d_features.pad_with_zeros(1, first, 0)?;
            Ok(Some(captions.modifier_gradient(rows, &d_features)?))
        };
        let (projections, modifier_rows) =
            rayon::join(|| self.projections.gradients(&d_flat, &features), of_modifier_rows);
        Ok(projections?.into_iter().chain(modifier_rows?).collect())
    }
}
