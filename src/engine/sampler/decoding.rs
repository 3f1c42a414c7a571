//! Latents to images and previews.

use candle_core::{DType, Device, Tensor};
use image::RgbImage;

use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};

/// Latents of one shape as the UNet sees them → `(batch, 3, height, width)` in [0, 1].
pub(super) fn decode(
    base: &BaseModel,
    latents: &[&[f32]],
    (channels, height, width): (usize, usize, usize),
) -> Result<Tensor> {
    let shape = (latents.len(), channels, height, width);
    let latents = Tensor::from_vec(latents.concat(), shape, &base.device)?;
    let images = base.vae.decode(&(latents / base.vae.scaling_factor())?)?;
    Ok(((images / 2.0)? + 0.5)?.clamp(0.0, 1.0)?)
}

/// Means over squares of cells, as small as needed for at most `cells` a side.
pub(super) fn shrink(
    latents: &[f32],
    (channels, height, width): (usize, usize, usize),
    cells: usize,
) -> (Vec<f32>, (usize, usize, usize)) {
    let by = height.max(width).div_ceil(cells);
    if by == 1 {
        return (latents.to_vec(), (channels, height, width));
    }
    let (small_height, small_width) = (height.div_ceil(by), width.div_ceil(by));
    let mut small = Vec::with_capacity(channels * small_height * small_width);
    for plane in latents.chunks_exact(height * width) {
        for top in (0..height).step_by(by) {
            for left in (0..width).step_by(by) {
                let rows = top..(top + by).min(height);
                let columns = left..(left + by).min(width);
                let count = (rows.len() * columns.len()) as f32;
                let sum: f32 =
                    rows.map(|row| plane[row * width..][columns.clone()].iter().sum::<f32>()).sum();
                small.push(sum / count);
            }
        }
    }
    (small, (channels, small_height, small_width))
}

/// `(3, height, width)` in [0, 1] → bytes.
pub(super) fn to_rgb(image: &Tensor) -> Result<RgbImage> {
    let (_, height, width) = image.dims3()?;
    let image = image.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let values: Vec<f32> = image.permute((1, 2, 0))?.flatten_all()?.to_vec1()?; // (height, width, 3)
    let bytes = values.into_iter().map(|value| (value * 255.0).round_ties_even() as u8).collect();
    RgbImage::from_raw(width as u32, height as u32, bytes).ok_or_else(|| {
        EngineError::Tensor(candle_core::Error::msg("the decoder's image is not three channels"))
    })
}
