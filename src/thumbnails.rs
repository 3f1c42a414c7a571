//! Small copies of images as WebP, made when somebody looks at them and cached by bytes.

use std::sync::Arc;

use bytes::Bytes;
use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::byte_cache::ByteCache;
use crate::counters::THUMBNAILS;
use crate::domain::digest::Digest;
use crate::domain::image::ThumbnailWidth;
use crate::photo_file::{self, PhotoFileError};

/// Memory for thumbnails, in bytes: some thousands of them.
const BUDGET_BYTES: usize = 64 << 20;

/// WebP's quality, from 0 to 100.
const QUALITY: f32 = 80.0;

/// The thumbnails that were asked for last. A clone is a handle to the same ones.
#[derive(Clone)]
pub struct Thumbnails(Arc<ByteCache<(Digest, ThumbnailWidth), Bytes>>);

impl std::fmt::Debug for Thumbnails {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Thumbnails").field("used_bytes", &self.0.used_bytes()).finish()
    }
}

impl Default for Thumbnails {
    fn default() -> Self {
        Self(Arc::new(ByteCache::new(BUDGET_BYTES, &THUMBNAILS)))
    }
}

impl Thumbnails {
    /// Returns the thumbnail of an image, or makes it. Those who ask for it in the meantime wait.
    ///
    /// - `sha256`: of the image's file
    ///
    /// # Errors
    /// Those of `make`.
    pub async fn get_or_make<E>(
        &self,
        sha256: &Digest,
        width: ThumbnailWidth,
        make: impl AsyncFnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let made = self.0.get_or_make((sha256.clone(), width), async || {
            let bytes = make().await?;
            let size = bytes.len();
            Ok((bytes, size))
        });
        made.await
    }
}

/// Makes a thumbnail. An image that is narrower keeps its size.
///
/// # Errors
/// If the file is not an image.
pub fn encode(file: &[u8], width: ThumbnailWidth) -> Result<Bytes, PhotoFileError> {
    let image = scaled(photo_file::decode(file)?, width.pixels());
    let (width, height) = image.dimensions();
    let encoder = webp::Encoder::from_rgb(&image, width, height);
    Ok(Bytes::copy_from_slice(&encoder.encode(QUALITY)))
}

fn scaled(image: RgbImage, to_width: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    if width <= to_width {
        return image;
    }
    let to_height = (u64::from(height) * u64::from(to_width)).div_ceil(u64::from(width));
    let to_height = u32::try_from(to_height).unwrap_or(height);
    // The filter costs by the pixels that it reads. What is much larger is first averaged down to twice the size.
    let image = match width / to_width {
        0..4 => image,
        _ => imageops::thumbnail(&image, 2 * to_width, 2 * to_height),
    };
    imageops::resize(&image, to_width, to_height, FilterType::CatmullRom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbnail_keeps_the_shape_and_grows_nothing() {
        for ((width, height), expected) in [
            ((512, 512), (128, 128)),
            ((513, 300), (128, 75)),
            ((3000, 10), (128, 1)),
            ((100, 400), (100, 400)),
            ((128, 1), (128, 1)),
            ((129, 1), (128, 1)),
        ] {
            let image = RgbImage::from_pixel(width, height, image::Rgb([10, 200, 90]));

            let small = scaled(image, 128);

            assert_eq!(small.dimensions(), expected, "{width}x{height}");
            let (x, y) = (small.width() / 2, small.height() / 2);
            assert_eq!(small.get_pixel(x, y).0, [10, 200, 90], "{width}x{height}");
        }
    }
}
