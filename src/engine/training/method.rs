//! The interface between a training and a fine-tuning method.

use candle_core::Tensor;

use super::batch::{Batch, FrozenModel};
use super::objective::Objective;
use crate::engine::error::Result;

/// A fine-tuning method: which tensors are trained, how keys and values follow from them, and what their gradient is.
///
/// The UNet sees keys and values alone, so a method needs nothing else of it: a step asks for K and V of its captions,
/// runs the backward pass of the loss to them, and passes their gradient to the method.
pub trait Method: Send {
    /// What [`Self::gradients`] needs of the forward pass.
    type Forward;

    /// The trained tensors, in a fixed order, all in f32.
    fn parameters(&self) -> Vec<Parameter<'_>>;

    /// Puts new values in place of all [`Self::parameters`], in their order and shapes.
    fn set_parameters(&mut self, values: Vec<Tensor>);

    /// Whether the text features of captions with a modifier token are traced, because a modifier token is trained.
    fn trains_text(&self) -> bool;

    /// K and V of captions.
    ///
    /// - `input_ids`: one caption per element of the batch, as in [`Batch::input_ids`]
    /// - returns all layers side by side, each layer's keys before its values, `(batch, tokens, Σ 2·inner)` in f32
    fn key_values(
        &mut self,
        base: FrozenModel<'_>,
        input_ids: &[Vec<u32>],
    ) -> Result<(Tensor, Self::Forward)>;

    /// The gradient of each of [`Self::parameters`], in their order.
    ///
    /// - `d_key_values`: the gradient of what [`Self::key_values`] returned, in the same shape
    fn gradients(&self, forward: Self::Forward, d_key_values: &Tensor) -> Result<Vec<Tensor>>;
}

/// One trained tensor, and how the optimizer treats it.
pub struct Parameter<'a> {
    /// Unique within its method; a saved state names it by this.
    pub name: &'static str,
    pub value: &'a Tensor,
    pub weight_decay: f64,
    /// The factor of the training's learning rate.
    pub learning_rate_factor: f64,
}

/// The loss of a batch, and its gradient with respect to each of [`Method::parameters`].
pub struct LossGradient {
    pub loss: f32,
    pub gradients: Vec<Tensor>,
}

/// The objective's value and gradient on one batch.
pub fn loss_gradient<M: Method>(
    method: &mut M,
    base: FrozenModel<'_>,
    batch: &Batch,
    objective: Objective,
) -> Result<LossGradient> {
    let (key_values, forward) = method.key_values(base, &batch.input_ids)?;
    let (loss, d_key_values) = objective.key_value_gradient(base, batch, &key_values)?;
    Ok(LossGradient { loss, gradients: method.gradients(forward, &d_key_values)? })
}
