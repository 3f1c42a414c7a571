//! Group normalisation with frozen scale and shift.

mod candle;
mod cpu;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::buffer::has_kernels;
use super::cuda::{self, Family};
use super::normalization::Affine;
use crate::engine::autograd::Variable;

/// Normalises groups of channels of an image, then scales and shifts each channel.
///
/// `y = w x̂ + b` with `x̂ = (x − mean) / √(var + ε)` over a group's channels and pixels, optionally followed by SiLU.
/// With `g = w dy`, where `dy` includes SiLU's derivative, `dx = (g − mean g − x̂ mean(g x̂)) / √(var + ε)`.
#[derive(Clone)]
pub struct GroupNorm {
    affine: Arc<Affine>,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// - `weight`, `bias`: `(channels,)`
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Self> {
        Ok(Self { affine: Arc::new(Affine::new(weight, bias)?), groups, eps })
    }

    /// `(batch, height, width, channels)` → the same shape.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        self.apply(x, None, false)
    }

    /// [`Self::forward`] followed by SiLU, in one pass.
    pub fn forward_silu(&self, x: &Variable) -> Result<Variable> {
        self.apply(x, None, true)
    }

    /// [`Self::forward_silu`] of `x` plus one value per image and channel.
    ///
    /// - `shift`: `(batch, channels)`, takes no gradient
    pub fn forward_shifted_silu(&self, x: &Variable, shift: &Tensor) -> Result<Variable> {
        self.apply(x, Some(shift), true)
    }

    fn apply(&self, x: &Variable, shift: Option<&Tensor>, silu: bool) -> Result<Variable> {
        let Self { affine, groups, eps } = self.clone();
        affine.check(x.tensor())?;
        let (batch, .., channels) = x.tensor().dims4()?;
        if groups == 0 || !channels.is_multiple_of(groups) {
            bail!("{channels} channels in {groups} groups");
        }
        if let Some(shift) = shift
            && shift.dims() != [batch, channels]
        {
            bail!("a shift of {:?} for {batch} images of {channels} channels", shift.dims());
        }
        let input = x.tensor().contiguous()?;
        if has_kernels(&input) {
            let norm = cpu::Norm { affine, groups, eps, silu };
            let (y, images) = norm.forward(&input, shift)?;
            return Ok(Variable::derived_adding(y, x, move |dy, so_far| {
                norm.backward(&input, &dy.contiguous()?, so_far, &images)
            }));
        }
        if cuda::has_kernels(&input, Family::Norms) {
            let shift = shift.cloned();
            let run = move |input: &Tensor, dy: Option<&Tensor>| {
                let of_channels = (&affine.weight, &affine.bias);
                cuda::group_norm(input, of_channels, shift.as_ref(), (groups, eps, silu), dy)
            };
            let y = run(&input, None)?;
            return Ok(Variable::derived(y, [x], move |dy, _| Ok([Some(run(&input, Some(dy))?)])));
        }
        let norm = candle::Norm::new(&affine, &input, shift, (groups, eps), silu)?;
        let y = norm.forward(&input)?;
        Ok(Variable::derived(y, [x], move |dy, _| Ok([Some(norm.backward(&input, dy)?)])))
    }
}
