//! Images to start from.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::engine::base_model::BaseModel;
use crate::engine::error::Result;

/// The latents of an image to start from, `channels · height · width` as the UNet sees them.
///
/// The image is scaled to cover `width` × `height` and cut in its middle. Its latents are the posterior's mean, where
/// diffusers samples from it: what starts there is noised anyway, and all images of a request start from the same.
pub fn encode_init(
    base: &BaseModel,
    image: &RgbImage,
    width: usize,
    height: usize,
) -> Result<Arc<[f32]>> {
    let covered = cover(image, width as u32, height as u32);
    let values: Vec<f32> =
        covered.as_raw().iter().map(|&value| f32::from(value) / 127.5 - 1.0).collect();
    let pixels = Tensor::from_vec(values, (1, height, width, 3), &base.device)?;
    let mean = base.vae.encode(&pixels.permute((0, 3, 1, 2))?.contiguous()?)?.mean;
    let latents = (mean.to_dtype(DType::F32)? * base.vae.scaling_factor())?;
    Ok(latents.flatten_all()?.to_vec1::<f32>()?.into())
}

/// Scales an image to cover a size, and crops it at the center.
pub fn cover(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (from_width, from_height) = (u64::from(image.width()), u64::from(image.height()));
    let (to_width, to_height) = (u64::from(width), u64::from(height));
    // The part of the image that has the wanted shape, as large as can be.
    let (part_width, part_height) = if from_width * to_height > from_height * to_width {
        ((from_height * to_width / to_height).max(1), from_height)
    } else {
        (from_width, (from_width * to_height / to_width).max(1))
    };
    let (left, top) = ((from_width - part_width) / 2, (from_height - part_height) / 2);
    let part =
        imageops::crop_imm(image, left as u32, top as u32, part_width as u32, part_height as u32);
    imageops::resize(&part.to_image(), width, height, FilterType::CatmullRom)
}
