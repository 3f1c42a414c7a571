//! Normalisation with frozen scale and shift.

use candle_core::{D, Result, Tensor};

/// Normalises groups of channels of an image, then scales and shifts each channel.
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// - `weight`, `bias`: `(channels,)`
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight, bias, groups, eps })
    }

    /// `(batch, channels, height, width)` → the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let shape = x.dims().to_vec();
        let flat = x.reshape((shape[0], self.groups, ()))?;
        let y = normalize_last_dim(&flat, self.eps)?.reshape(shape)?;
        y.broadcast_mul(&self.weight.reshape((1, (), 1, 1))?)?
            .broadcast_add(&self.bias.reshape((1, (), 1, 1))?)
    }

    /// [`Self::forward`] followed by SiLU, in one pass.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        super::silu(&self.forward(x)?)
    }
}

/// Normalises the last dimension, then scales and shifts it.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// - `weight`, `bias`: `(dim,)`
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        Ok(Self { weight, bias, eps })
    }

    /// `(…, dim)` → the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        normalize_last_dim(x, self.eps)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

fn normalize_last_dim(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)
}
