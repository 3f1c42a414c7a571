//! Change of image size between the levels of a model.

use candle_core::{Result, Tensor};

/// Doubles height and width by repetition: `(batch, channels, h, w)` → `(batch, channels, 2h, 2w)`.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    x.reshape((b, c, h, 1, w, 1))?.broadcast_as((b, c, h, 2, w, 2))?.reshape((b, c, 2 * h, 2 * w))
}
