//! WebP; of an animation, the first frame.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ImageDecoder, RgbImage};

use super::color::{self, Channels, ToSrgb};
use super::{Header, PhotoFileError, Pixels};

/// What decoding takes per pixel, with alpha or an animation: the canvas, a frame, the result, and planes of each.
const BYTES_OF_LAYERS: u64 = 13;
/// Without: four bytes of the decoder, then three of the result.
const BYTES_OF_LOSSLESS: u64 = 8;
/// Planes of brightness and colour, then three bytes of the result.
const BYTES_OF_LOSSY: u64 = 5;

pub(super) fn header(file: &[u8]) -> Result<Header, PhotoFileError> {
    let decoder = open(file)?;
    let (width, height) = decoder.dimensions();
    let per_pixel = if decoder.color_type().has_alpha() || decoder.has_animation() {
        BYTES_OF_LAYERS
    } else if file.get(12..16) == Some(b"VP8L") || contains(file, b"VP8L") {
        BYTES_OF_LOSSLESS
    } else {
        BYTES_OF_LOSSY
    };
    let pixels = u64::from(width) * u64::from(height);
    Ok(Header { width, height, decoder_bytes: per_pixel * pixels + file.len() as u64 })
}

/// Whether the image is lossless, by the name of its chunk. One that only looks like it costs nothing but an estimate.
fn contains(file: &[u8], name: &[u8; 4]) -> bool {
    file.windows(4).any(|bytes| bytes == name)
}

fn open(file: &[u8]) -> Result<WebPDecoder<Cursor<&[u8]>>, PhotoFileError> {
    Ok(WebPDecoder::new(Cursor::new(file))?)
}

pub(super) fn read(file: &[u8]) -> Result<Pixels, PhotoFileError> {
    let mut decoder = open(file)?;
    // What cannot be read of the metadata is no reason to refuse the pixels.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let channels = if decoder.color_type().has_alpha() { Channels::Rgba } else { Channels::Rgb };
    let icc_profile = decoder.icc_profile().ok().flatten();
    let profile = icc_profile.map(|profile| color::fitting(&profile, channels));
    let ignored_profile = profile.as_ref().and_then(|found| found.as_ref().err()).copied();
    let mut to_srgb = ToSrgb::new(channels, profile.and_then(Result::ok).flatten().as_ref());

    let (width, height) = decoder.dimensions();
    let stride = channels.count() * width as usize;
    let mut pixels = vec![0; stride * height as usize];
    decoder.read_image(&mut pixels)?;
    let mut rgb = vec![0; 3 * width as usize];
    for line in 0..height as usize {
        to_srgb.convert(&pixels[line * stride..][..stride], &mut rgb);
        // Three bytes a pixel never reach the line that is read next.
        pixels[line * rgb.len()..][..rgb.len()].copy_from_slice(&rgb);
    }
    pixels.truncate(rgb.len() * height as usize);
    let image = RgbImage::from_raw(width, height, pixels).unwrap_or_default();
    Ok(Pixels { image, orientation, ignored_profile })
}
