//! What a build without the feature `cudnn` has in place of `cudnn`.

use candle_core::{Result, Tensor, bail};

use super::{ConvolutionSizes, Window};

pub(super) fn convolve(
    _: &Tensor,
    _: &Tensor,
    _: Window,
    _: ConvolutionSizes,
    _: bool,
) -> Result<Tensor> {
    bail!("this program was built without the feature `cudnn`")
}
