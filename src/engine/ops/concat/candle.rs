//! Concatenation in candle's tensors.

use candle_core::{D, Result, Tensor};

pub(super) fn concat(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[x, y], D::Minus1)
}

/// Channels `start..start + count`.
pub(super) fn slice_channels(x: &Tensor, start: usize, count: usize) -> Result<Tensor> {
    x.narrow(D::Minus1, start, count)?.contiguous()
}
