//! Group normalisation in candle's tensors.

use candle_core::{DType, Result, Tensor};

use crate::engine::ops::activation::Function;
use crate::engine::ops::chunks::{in_chunks, wide};
use crate::engine::ops::normalization::{Affine, normalize, normalize_gradient};

/// One group norm.
pub(super) struct Norm {
    /// `(1, 1, groups, channels / groups)`.
    weight: Tensor,
    bias: Tensor,
    /// `(batch, 1, groups, channels / groups)`.
    shift: Tensor,
    eps: f64,
    silu: bool,
    narrow: DType,
    wide: DType,
}

impl Norm {
    /// - `shift`: `(batch, channels)`
    pub(super) fn new(
        affine: &Affine,
        x: &Tensor,
        shift: Option<&Tensor>,
        (groups, eps): (usize, f64),
        silu: bool,
    ) -> Result<Self> {
        let (batch, _, _, channels) = x.dims4()?;
        let (narrow, wide) = (x.dtype(), wide(x));
        let scale = |x: &Tensor| x.to_dtype(wide)?.reshape((1, 1, groups, channels / groups));
        let (weight, bias) = (scale(&affine.weight)?, scale(&affine.bias)?);
        let shift = match shift {
            Some(shift) => shift.to_dtype(wide)?.reshape((batch, 1, groups, channels / groups))?,
            None => Tensor::zeros((batch, 1, groups, channels / groups), wide, x.device())?,
        };
        Ok(Self { weight, bias, shift, eps, silu, narrow, wide })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        in_chunks(&[x, &self.shift], size(x)?, |part| {
            let (normed, _) = self.normalize(&part[0], &part[1])?;
            let z = normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?;
            let y = if self.silu { Function::Silu.value(&z)? } else { z };
            y.reshape(part[0].shape())?.to_dtype(self.narrow)
        })
    }

    pub(super) fn backward(&self, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
        in_chunks(&[x, &self.shift, dy], size(x)?, |part| {
            let (normed, rstd) = self.normalize(&part[0], &part[1])?;
            let mut g = part[2].to_dtype(self.wide)?.reshape(normed.shape())?;
            if self.silu {
                let z = normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)?;
                g = (g * Function::Silu.slope(&z)?)?;
            }
            let dx = normalize_gradient(&g.broadcast_mul(&self.weight)?, &normed, &rstd, &[1, 3])?;
            dx.reshape(part[0].shape())?.to_dtype(self.narrow)
        })
    }

    /// `x̂` and `1 / √(var + ε)` of some images.
    fn normalize(&self, x: &Tensor, shift: &Tensor) -> Result<(Tensor, Tensor)> {
        let (images, height, width, _) = x.dims4()?;
        let (_, _, groups, per_group) = shift.dims4()?;
        let x = x.to_dtype(self.wide)?.reshape((images, height * width, groups, per_group))?;
        normalize(&x.broadcast_add(shift)?, &[1, 3], self.eps)
    }
}

/// Numbers of one image.
fn size(x: &Tensor) -> Result<usize> {
    Ok(x.dims()[1..].iter().product())
}
