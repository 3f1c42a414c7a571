//! Upsampling in candle's tensors.

use candle_core::{Result, Tensor};

pub(super) fn forward(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let doubled = x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, 2, w, 2, c))?;
    let doubled = doubled.contiguous()?.reshape((b, 2 * h, 2 * w, c))?;
    doubled.narrow(1, 0, height)?.narrow(2, 0, width)?.contiguous()
}

pub(super) fn backward(dy: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let (b, height, width, c) = dy.dims4()?;
    let dy = dy.pad_with_zeros(1, 0, 2 * h - height)?.pad_with_zeros(2, 0, 2 * w - width)?;
    dy.contiguous()?.reshape((b, h, 2, w, 2, c))?.sum(4)?.sum(2)
}
