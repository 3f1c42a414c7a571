//! Turns an uploaded file into a clean PNG, or says why it cannot be one.
//!
//! Files come from strangers. Nothing is decoded before its size is known to be sane, and nothing of the file but its
//! pixels is kept: no place of capture, no camera, nothing hidden behind the image.

use std::io::Cursor;

use image::codecs::png::PngEncoder;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::domain::code::Code;
use crate::domain::digest::Digest;
use crate::domain::image::{
    MAX_PHOTO_BYTES, MAX_PHOTO_PIXELS, MAX_PHOTO_SIDE, MAX_PHOTOS, MIN_PHOTO_SIDE,
};

/// A photo as it is stored.
#[derive(Debug)]
pub(super) struct Photo {
    pub(super) png: Vec<u8>,
    pub(super) width: u32,
    pub(super) height: u32,
    /// The digest of the PNG.
    pub(super) sha256: Digest,
}

/// Why a file cannot be a photo of a concept.
#[derive(Debug, thiserror::Error)]
pub enum PhotoError {
    #[error("the file is empty")]
    Empty,
    #[error("the file has more than {MAX_PHOTO_BYTES} bytes")]
    TooManyBytes,
    #[error("the file is not a PNG, JPEG or WebP image")]
    UnknownFormat,
    #[error(
        "the image has {width}x{height} pixels; at most {MAX_PHOTO_SIDE} a side and {MAX_PHOTO_PIXELS} in all are taken"
    )]
    TooLarge { width: u32, height: u32 },
    #[error("the image has {width}x{height} pixels; each side needs at least {MIN_PHOTO_SIDE}")]
    TooSmall { width: u32, height: u32 },
    #[error("the concept has this photo already")]
    Duplicate,
    #[error("a concept has at most {MAX_PHOTOS} photos")]
    TooMany,
    #[error("the image is damaged or ends early: {0}")]
    Damaged(String),
}

impl PhotoError {
    /// The code that clients are told.
    pub fn code(&self) -> Code {
        match self {
            Self::Empty | Self::UnknownFormat | Self::Damaged(_) => Code::ImageUnreadable,
            Self::TooManyBytes | Self::TooLarge { .. } => Code::ImageTooLarge,
            Self::TooSmall { .. } => Code::ImageTooSmall,
            Self::Duplicate => Code::DuplicateImage,
            Self::TooMany => Code::TooManyImages,
        }
    }
}

/// Decodes a file upright, as its EXIF orientation says, and encodes its pixels alone.
pub(super) fn normalize(file: &[u8]) -> Result<Photo, PhotoError> {
    if file.is_empty() {
        return Err(PhotoError::Empty);
    }
    let format = image::guess_format(file).map_err(|_| PhotoError::UnknownFormat)?;
    if !matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP) {
        return Err(PhotoError::UnknownFormat);
    }
    // The decoder fills up what is missing at the end of a JPEG with grey.
    if format == ImageFormat::Jpeg && !jpeg_has_an_end(file) {
        return Err(PhotoError::Damaged("no end of image".to_owned()));
    }

    let mut reader = ImageReader::with_format(Cursor::new(file), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(512 * 1024 * 1024);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if width > MAX_PHOTO_SIDE || height > MAX_PHOTO_SIDE || pixels > MAX_PHOTO_PIXELS {
        return Err(PhotoError::TooLarge { width, height });
    }
    if width < MIN_PHOTO_SIDE || height < MIN_PHOTO_SIDE {
        return Err(PhotoError::TooSmall { width, height });
    }
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(orientation);
    let image = on_white(&image);

    let mut png = Vec::new();
    image.write_with_encoder(PngEncoder::new(&mut png)).map_err(damaged)?;
    let sha256 = Digest::of(&png);
    Ok(Photo { png, width: image.width(), height: image.height(), sha256 })
}

fn damaged(error: image::ImageError) -> PhotoError {
    PhotoError::Damaged(error.to_string())
}

/// Puts what is transparent on white: the colours that files hide below full transparency are arbitrary.
fn on_white(image: &DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.to_rgb8();
    }
    let rgba = image.to_rgba8();
    RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0.map(u16::from);
        image::Rgb([r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

/// Walks a JPEG from marker to marker and says whether it comes to its end of image.
fn jpeg_has_an_end(file: &[u8]) -> bool {
    const END_OF_IMAGE: u8 = 0xd9;
    const START_OF_SCAN: u8 = 0xda;

    let mut at = 2; // behind the start of image
    while let Some(&[first, marker]) = file.get(at..at + 2) {
        match (first, marker) {
            (0xff, END_OF_IMAGE) => return true,
            (0xff, 0xff) => at += 1,               // fill byte
            (0xff, 0x01 | 0xd0..=0xd8) => at += 2, // no content
            (0xff, _) => {
                let Some(&[high, low]) = file.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
                if marker == START_OF_SCAN {
                    at += scan_length(file.get(at..).unwrap_or_default());
                }
            }
            _ => return false,
        }
    }
    false
}

/// Bytes of entropy-coded data up to the next marker that ends it.
fn scan_length(data: &[u8]) -> usize {
    let ends = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff);
    data.windows(2).position(ends).unwrap_or(data.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image_of(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]))
    }

    fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    /// A JPEG with an EXIF segment that says orientation 6: the camera was turned, show it a quarter to the right.
    fn turned_jpeg(image: &RgbImage) -> Vec<u8> {
        let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut file = encoded(image, ImageFormat::Jpeg);
        let mut segment = vec![0xff, 0xe1];
        segment.extend(((exif.len() + 2) as u16).to_be_bytes());
        segment.extend(exif);
        file.splice(2..2, segment);
        file
    }

    #[test]
    fn a_png_keeps_its_pixels() {
        let image = image_of(40, 50);

        let photo = normalize(&encoded(&image, ImageFormat::Png)).unwrap();

        assert_eq!(image::load_from_memory(&photo.png).unwrap().to_rgb8(), image);
    }

    #[test]
    fn the_orientation_is_applied_and_the_metadata_dropped() {
        let photo = normalize(&turned_jpeg(&image_of(40, 50))).unwrap();

        assert_eq!((photo.width, photo.height), (50, 40));
        assert!(!photo.png.windows(4).any(|bytes| bytes == b"Exif" || bytes == b"eXIf"));
    }

    #[test]
    fn a_file_that_ends_early_is_refused_in_every_format() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let file = encoded(&image_of(64, 64), format);
            assert!(normalize(&file).is_ok(), "{format:?}");
            for length in [file.len() * 9 / 10, file.len() / 2, 40] {
                let error = normalize(&file[..length]).unwrap_err();
                assert_eq!(
                    error.code(),
                    Code::ImageUnreadable,
                    "{format:?} cut to {length}: {error}"
                );
            }
        }
    }

    #[test]
    fn an_image_of_30_000_pixels_a_side_is_refused_undecoded() {
        // The header of a real PNG with other dimensions and its checksum made good: 38 bytes of 2.7 GB.
        let mut file = encoded(&image_of(32, 32), ImageFormat::Png);
        file[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
        file[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
        let checksum = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());

        let error = normalize(&file).unwrap_err();

        assert!(matches!(error, PhotoError::TooLarge { width: 30_000, height: 30_000 }), "{error}");
    }

    #[test]
    fn other_files_are_refused() {
        for file in [
            &b"hello"[..],
            b"",
            b"GIF89a\x01\0\x01\0\0\0\0",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        ] {
            assert_eq!(normalize(file).unwrap_err().code(), Code::ImageUnreadable);
        }
        assert_eq!(
            normalize(&encoded(&image_of(31, 64), ImageFormat::Png)).unwrap_err().code(),
            Code::ImageTooSmall
        );
    }

    #[test]
    fn transparent_pixels_become_white() {
        let mut image = image::RgbaImage::from_pixel(32, 32, image::Rgba([200, 0, 0, 0]));
        image.put_pixel(0, 0, image::Rgba([200, 0, 0, 255]));
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, ImageFormat::Png).unwrap();

        let photo =
            image::load_from_memory(&normalize(file.get_ref()).unwrap().png).unwrap().to_rgb8();

        assert_eq!(
            (photo.get_pixel(0, 0).0, photo.get_pixel(5, 5).0),
            ([200, 0, 0], [255, 255, 255])
        );
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc: u32, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ (0xedb8_8320 * (crc & 1)))
        })
    }
}
