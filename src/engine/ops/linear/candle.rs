//! Linear layers in candle's tensors.

use candle_core::{Result, Tensor};

use crate::engine::ops::cuda;

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
        let x = x.reshape(((), self.weight.dim(1)?))?;
        if let Some(y) = cuda::product(&x, &self.weight, self.bias.as_ref(), other)? {
            return y.reshape(shape);
        }
        let y = x.matmul(&self.weight.t()?)?;
        cuda::finish(y.reshape(shape)?, self.bias.as_ref(), other)
    }

    /// `dy W`, of `shape`.
    pub(super) fn backward(&self, dy: &Tensor, shape: Vec<usize>) -> Result<Tensor> {
        dy.reshape(((), self.weight.dim(0)?))?.matmul(&self.weight)?.reshape(shape)
    }
}
