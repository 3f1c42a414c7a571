//! An image file as pixels: upright, 8-bit sRGB, on white.
//!
//! Everything that users bring is read here, photos of concepts as well as class images, so that a file is the same image
//! wherever it comes in. The dimensions are checked before anything is decoded. The bytes say what a file is, not its name.

mod color;
mod jpeg;

use std::borrow::Cow;
use std::io::Cursor;

use image::metadata::Orientation;
use image::{
    DynamicImage, GrayAlphaImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader,
    Limits, RgbImage, RgbaImage,
};

use crate::domain::git_lfs;
use crate::domain::image::{MAX_PHOTO_PIXELS, MAX_PHOTO_SIDE};

/// What decoding one file may allocate.
const MAX_DECODER_BYTES: u64 = 512 * 1024 * 1024;

/// Why a file is not an image that can be used.
#[derive(Debug, thiserror::Error)]
pub enum PhotoFileError {
    #[error("the file is empty")]
    Empty,
    #[error("{}", git_lfs::REMEDY)]
    GitLfsPointer,
    #[error("the file is not a PNG, JPEG or WebP image")]
    UnknownFormat,
    #[error(
        "the image has {width}x{height} pixels; at most {MAX_PHOTO_SIDE} a side and {MAX_PHOTO_PIXELS} in all are taken"
    )]
    TooLarge { width: u32, height: u32 },
    #[error("the image is damaged or ends early: {0}")]
    Damaged(String),
}

impl From<ImageError> for PhotoFileError {
    fn from(error: ImageError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Decodes a file to the pixels that a colour-managed viewer shows on a white page.
///
/// - rotated as its EXIF orientation says
/// - its colours converted to sRGB, relative colorimetric, from its ICC profile or the colour chunks of a PNG
/// - of 16 bits, the high byte
/// - on white where it is transparent
///
/// # Errors
/// [`PhotoFileError`]
pub fn decode(file: &[u8]) -> Result<RgbImage, PhotoFileError> {
    let format = format_of(file)?;
    let (width, height) = open(file, format)?.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if width > MAX_PHOTO_SIDE || height > MAX_PHOTO_SIDE || pixels > MAX_PHOTO_PIXELS {
        return Err(PhotoFileError::TooLarge { width, height });
    }
    let file = match format {
        // The decoder fills up what is missing at the end of a JPEG with grey.
        ImageFormat::Jpeg => jpeg::with_end_of_image(file)
            .ok_or_else(|| PhotoFileError::Damaged("no end of image".to_owned()))?,
        _ => Cow::Borrowed(file),
    };
    let mut decoder = open(&file, format)?;
    // What cannot be read of the metadata is no reason to refuse the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let icc_profile = decoder.icc_profile().ok().flatten();
    let profile = color::source_profile(&file, format, icc_profile.as_deref());
    let mut image = high_bytes(DynamicImage::from_decoder(decoder)?);
    if let Some(profile) = profile {
        image = color::to_srgb(image, &profile);
    }
    image.apply_orientation(orientation);
    Ok(on_white(image))
}

fn format_of(file: &[u8]) -> Result<ImageFormat, PhotoFileError> {
    if file.is_empty() {
        return Err(PhotoFileError::Empty);
    }
    if git_lfs::is_pointer(file) {
        return Err(PhotoFileError::GitLfsPointer);
    }
    match image::guess_format(file) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => Ok(format),
        Ok(_) | Err(_) => Err(PhotoFileError::UnknownFormat),
    }
}

fn open(file: &[u8], format: ImageFormat) -> Result<impl ImageDecoder, PhotoFileError> {
    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    Ok(reader.into_decoder()?)
}

/// An image of 16 bits a channel with the high byte of each, as libpng does it; others as they are.
fn high_bytes(image: DynamicImage) -> DynamicImage {
    fn high(wide: &[u16]) -> Vec<u8> {
        wide.iter().map(|value| (value >> 8) as u8).collect()
    }
    let (width, height) = (image.width(), image.height());
    // `from_raw` has nothing to refuse: the number of values is that of the image.
    let narrow = match &image {
        DynamicImage::ImageLuma16(wide) => {
            GrayImage::from_raw(width, height, high(wide)).map(DynamicImage::from)
        }
        DynamicImage::ImageLumaA16(wide) => {
            GrayAlphaImage::from_raw(width, height, high(wide)).map(DynamicImage::from)
        }
        DynamicImage::ImageRgb16(wide) => {
            RgbImage::from_raw(width, height, high(wide)).map(DynamicImage::from)
        }
        DynamicImage::ImageRgba16(wide) => {
            RgbaImage::from_raw(width, height, high(wide)).map(DynamicImage::from)
        }
        _ => None,
    };
    narrow.unwrap_or(image)
}

/// Puts what is transparent on white: the colours that files hide below full transparency are arbitrary.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let rgba = image.into_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0.map(u16::from);
        image::Rgb([r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;

    fn png(pixels: &[u8], color: ExtendedColorType) -> Vec<u8> {
        let mut file = Vec::new();
        PngEncoder::new(&mut file).write_image(pixels, 256, 1, color).unwrap();
        file
    }

    fn words(values: impl Iterator<Item = u16>) -> Vec<u8> {
        values.flat_map(u16::to_ne_bytes).collect()
    }

    #[test]
    fn a_ramp_of_16_bits_keeps_its_256_levels() {
        for step in [256, 257] {
            let gray = words((0..256).map(|x| x * step));
            let rgb = words((0..256).flat_map(|x| [x * step; 3]));
            let both = [(gray, ExtendedColorType::L16), (rgb, ExtendedColorType::Rgb16)];
            for (pixels, color) in both {
                let image = decode(&png(&pixels, color)).unwrap();

                let levels: Vec<u8> = image.pixels().map(|pixel| pixel.0[1]).collect();
                assert_eq!(levels, (0..=255).collect::<Vec<u8>>(), "{color:?} by {step}");
            }
        }
    }

    #[test]
    fn gray_with_alpha_lies_on_white() {
        let narrow: Vec<u8> = (0..=255).flat_map(|x| [100, x]).collect();
        let wide = words((0..256).flat_map(|x| [100 * 257, x * 257]));

        let image = decode(&png(&narrow, ExtendedColorType::La8)).unwrap();

        assert_eq!((image[(0, 0)].0, image[(255, 0)].0), ([255; 3], [100; 3]));
        assert_eq!(decode(&png(&wide, ExtendedColorType::La16)).unwrap(), image);
    }

    #[test]
    fn a_git_lfs_pointer_is_called_one() {
        let error =
            decode(b"version https://git-lfs.github.com/spec/v1\noid sha256:00").unwrap_err();

        assert!(error.to_string().contains("git lfs pull"), "{error}");
    }
}
