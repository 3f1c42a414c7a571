//! An image file as pixels: upright, 8-bit sRGB, on white.
//!
//! Everything that users bring is read here, photos of concepts as well as class images, so that a file is the same image
//! wherever it comes in. The bytes say what a file is, not its name. The header says what decoding will cost, so that a small file
//! of many pixels is refused, or waits for its turn, before anything is unpacked.

mod color;
mod format;
mod jpeg;
mod measures;
mod png;
mod webp;

use image::imageops;
use image::metadata::Orientation;
use image::{DynamicImage, ImageError, RgbImage};

use crate::domain::git_lfs;
use crate::domain::image::{MAX_PHOTO_PIXELS, MAX_PHOTO_SIDE};

pub use self::color::IgnoredProfile;
use self::format::Format;

/// The most that decoding one file may allocate, the result included: the largest photo that comes row by row.
pub const MAX_DECODER_BYTES: u64 = 192 << 20;

/// Why a file is not an image that can be used.
#[derive(Debug, thiserror::Error)]
pub enum PhotoFileError {
    #[error("the file is empty")]
    Empty,
    #[error("{}", git_lfs::REMEDY)]
    GitLfsPointer,
    #[error("the file is not a PNG, JPEG or WebP image")]
    UnknownFormat,
    /// An image of another format.
    #[error("unsupported image: this is {name}; {remedy}")]
    Unsupported { name: &'static str, remedy: &'static str },
    #[error(
        "the image has {width}x{height} pixels; at most {MAX_PHOTO_SIDE} a side and {MAX_PHOTO_PIXELS} in all are taken"
    )]
    TooLarge { width: u32, height: u32 },
    #[error(
        "decoding {width}x{height} pixels of this kind takes {} MiB of memory, at most {} are allowed: save the image smaller, or as \
         an ordinary (baseline) JPEG",
        decoder_bytes >> 20, MAX_DECODER_BYTES >> 20
    )]
    TooCostly { width: u32, height: u32, decoder_bytes: u64 },
    #[error("the file is an image and also {0}: save the image again and send that alone")]
    Polyglot(&'static str),
    #[error("the image is damaged or ends early: {0}")]
    Damaged(String),
}

impl From<ImageError> for PhotoFileError {
    fn from(error: ImageError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// What a file says about itself before it is decoded.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Width and height as stored, before the image is turned upright.
    pub width: u32,
    pub height: u32,
    /// The most that [`read`] allocates for it at a time.
    pub decoder_bytes: u64,
}

/// A decoded file.
#[derive(Debug)]
pub struct Pixels {
    /// In sRGB, as the file has it: not yet upright.
    pub image: RgbImage,
    /// How it has to be turned.
    pub orientation: Orientation,
    /// Why its ICC profile is not used, if it has one that is not.
    pub ignored_profile: Option<IgnoredProfile>,
}

/// Rows that are turned at a time.
const BAND: usize = 64;

impl Pixels {
    /// Width and height of the upright image.
    pub fn upright_dimensions(&self) -> (u32, u32) {
        let (width, height) = self.image.dimensions();
        match self.orientation {
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (height, width),
            _ => (width, height),
        }
    }

    /// Gives the upright image from top to bottom, some rows at a time: a copy of all of it would take as much memory again.
    ///
    /// # Errors
    /// The first of `take`.
    pub fn for_each_upright_band<E>(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let (width, height) = self.upright_dimensions();
        let (last_x, last_y) = (self.image.width() - 1, self.image.height() - 1);
        // The place in the file of the pixel at `x`, `y`.
        let stored = |x: u32, y: u32| match self.orientation {
            Orientation::NoTransforms => (x, y),
            Orientation::FlipHorizontal => (last_x - x, y),
            Orientation::Rotate180 => (last_x - x, last_y - y),
            Orientation::FlipVertical => (x, last_y - y),
            Orientation::Rotate90FlipH => (y, x),
            Orientation::Rotate90 => (y, last_y - x),
            Orientation::Rotate270FlipH => (last_x - y, last_y - x),
            Orientation::Rotate270 => (last_x - y, x),
        };
        let mut band = vec![0; 3 * width as usize * BAND];
        for top in (0..height).step_by(BAND) {
            let rows = (height - top).min(BAND as u32);
            // Column by column: a quarter turn then reads rows of the file.
            for x in 0..width {
                for row in 0..rows {
                    let (from_x, from_y) = stored(x, top + row);
                    let at = 3 * (row as usize * width as usize + x as usize);
                    band[at..at + 3].copy_from_slice(&self.image.get_pixel(from_x, from_y).0);
                }
            }
            take(&band[..3 * rows as usize * width as usize])?;
        }
        Ok(())
    }

    /// The image, upright.
    pub fn into_upright(self) -> RgbImage {
        let Self { mut image, orientation, .. } = self;
        match orientation {
            Orientation::NoTransforms => image,
            Orientation::Rotate180 => {
                imageops::rotate180_in_place(&mut image);
                image
            }
            Orientation::FlipHorizontal => {
                imageops::flip_horizontal_in_place(&mut image);
                image
            }
            Orientation::FlipVertical => {
                imageops::flip_vertical_in_place(&mut image);
                image
            }
            quarter => {
                let mut image = DynamicImage::from(image);
                image.apply_orientation(quarter);
                image.into_rgb8()
            }
        }
    }
}

/// Whether a file may be an image that is taken, by its first bytes; nothing is decoded.
///
/// # Errors
/// [`PhotoFileError::UnknownFormat`] and the like.
pub fn check_beginning(file: &[u8]) -> Result<(), PhotoFileError> {
    Format::of(file).map(drop)
}

/// The first bytes that [`check_beginning`] looks at.
pub const BEGINNING: usize = 64;

/// Reads the size of an image and what decoding it costs.
///
/// # Errors
/// [`PhotoFileError`], also if it has more pixels or costs more than is allowed.
pub fn header(file: &[u8]) -> Result<Header, PhotoFileError> {
    let format = Format::of(file)?;
    format::check_single(file, format)?;
    let header = match format {
        Format::Png => png::header(file)?,
        Format::Jpeg => jpeg::header(file)?,
        Format::WebP => webp::header(file)?,
    };
    let Header { width, height, decoder_bytes } = header;
    let pixels = u64::from(width) * u64::from(height);
    if width > MAX_PHOTO_SIDE || height > MAX_PHOTO_SIDE || pixels > MAX_PHOTO_PIXELS {
        return Err(PhotoFileError::TooLarge { width, height });
    }
    if pixels == 0 {
        return Err(PhotoFileError::Damaged("it has no pixels".to_owned()));
    }
    if decoder_bytes > MAX_DECODER_BYTES {
        return Err(PhotoFileError::TooCostly { width, height, decoder_bytes });
    }
    Ok(header)
}

/// Decodes a file to the pixels that a colour-managed viewer shows on a white page.
///
/// - its colours converted to sRGB, relative colorimetric, from its ICC profile or the colour chunks of a PNG
/// - of 16 bits, the high byte
/// - on white where it is transparent
/// - of an animation, the first frame
///
/// # Errors
/// As for [`header`], and if it is damaged.
pub fn read(file: &[u8]) -> Result<Pixels, PhotoFileError> {
    header(file)?;
    match Format::of(file)? {
        Format::Png => png::read(file),
        Format::Jpeg => jpeg::read(file),
        Format::WebP => webp::read(file),
    }
}

/// The pixels of a file, upright: rotated as its EXIF orientation says.
///
/// # Errors
/// As for [`read`].
pub fn decode(file: &[u8]) -> Result<RgbImage, PhotoFileError> {
    read(file).map(Pixels::into_upright)
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
