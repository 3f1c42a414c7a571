//! Linear layers in candle's tensors.

use candle_core::{Result, Tensor};

use crate::engine::ops::cuda::{self, Family};

pub(super) struct Matrix {
    /// `W`, `(out_features, in_features)`.
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl Matrix {
    /// `x Wᵀ + b + other`, of `shape`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        other: Option<&Tensor>,
        shape: Vec<usize>,
    ) -> Result<Tensor> {
        let y = x.reshape(((), self.weight.dim(1)?))?.matmul(&self.weight.t()?)?;
        if cuda::has_kernels(&y, Family::Sums) {
            return cuda::finish(y.reshape(shape)?, self.bias.as_ref(), other);
        }
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        let y = y.reshape(shape)?;
        match other {
            Some(other) => y + other,
            None => Ok(y),
        }
    }

    /// `dy W`, of `shape`.
    pub(super) fn backward(&self, dy: &Tensor, shape: Vec<usize>) -> Result<Tensor> {
        dy.reshape(((), self.weight.dim(0)?))?.matmul(&self.weight)?.reshape(shape)
    }
}
