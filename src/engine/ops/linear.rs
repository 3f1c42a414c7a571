//! Matrix product with a frozen matrix.

use candle_core::{Result, Tensor};

/// `x Wᵀ + b` whose `W` and `b` take no gradient.
pub struct FrozenLinear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl FrozenLinear {
    /// - `weight`: `(out_features, in_features)`
    /// - `bias`: `(out_features,)`
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight, bias })
    }

    /// `(…, in_features)` → `(…, out_features)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut shape = x.dims().to_vec();
        let width = shape.pop().unwrap_or(0);
        let y = x.reshape(((), width))?.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        shape.push(self.weight.dim(0)?);
        y.reshape(shape)
    }
}
