//! Layer normalisation with frozen scale and shift.

mod candle;
mod cpu;

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::buffer::has_kernels;
use super::normalization::Affine;
use super::sum::plus;
use crate::engine::autograd::Variable;

/// Normalises the last dimension, then scales and shifts it. The gradient is that of [`GroupNorm`] with one group.
///
/// [`GroupNorm`]: super::GroupNorm
#[derive(Clone)]
pub struct LayerNorm {
    affine: Arc<Affine>,
    eps: f64,
}

impl LayerNorm {
    /// - `weight`, `bias`: `(dim,)`
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        Ok(Self { affine: Arc::new(Affine::new(weight, bias)?), eps })
    }

    /// `(…, dim)` → the same shape.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        let Self { affine, eps } = self.clone();
        affine.check(x.tensor())?;
        let input = x.tensor().contiguous()?;
        let y = match has_kernels(&input) {
            true => cpu::forward(&input, &affine, eps as f32)?,
            false => candle::forward(&input, &affine, eps)?,
        };
        Ok(Variable::derived_adding(y, x, move |dy, so_far| match has_kernels(&input) {
            true => cpu::backward(&input, &dy.contiguous()?, so_far, &affine, eps as f32),
            false => plus(candle::backward(&input, dy, &affine, eps)?, so_far),
        }))
    }
}
