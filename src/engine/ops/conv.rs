//! Convolution with frozen filters.

use candle_core::{Result, Tensor};

/// Zeros around an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

impl Padding {
    /// The same on all four sides.
    pub const fn same(pixels: usize) -> Self {
        Self { top: pixels, bottom: pixels, left: pixels, right: pixels }
    }
}

/// A 2-D convolution whose filters take no gradient.
pub struct FrozenConv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: Padding,
}

impl FrozenConv2d {
    /// - `weight`: `(out_channels, in_channels, kernel, kernel)`
    /// - `bias`: `(out_channels,)`
    pub fn new(
        weight: Tensor,
        bias: Option<Tensor>,
        stride: usize,
        padding: Padding,
    ) -> Result<Self> {
        Ok(Self { weight, bias, stride, padding })
    }

    /// `(batch, in_channels, height, width)` → `(batch, out_channels, height', width')`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let p = self.padding;
        let x = x.pad_with_zeros(2, p.top, p.bottom)?.pad_with_zeros(3, p.left, p.right)?;
        let y = x.conv2d(&self.weight, 0, self.stride, 1, 1)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
            None => Ok(y),
        }
    }
}
