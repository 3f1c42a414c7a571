//! WebP; of an animation, the first frame.

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ImageDecoder, RgbImage};

use super::color::{self, Channels, ToSrgb};
use super::{Header, PhotoFileError, Pixels};

/// What decoding takes per pixel of an animation, or of a lossy image with alpha: the canvas, a frame, the result, and planes of each.
const BYTES_OF_LAYERS: u64 = 13;
/// Four bytes of the decoder, then three of the result; with alpha they are the same.
const BYTES_OF_LOSSLESS: u64 = 8;
/// Planes of brightness and colour, then three bytes of the result.
const BYTES_OF_LOSSY: u64 = 5;

pub(super) fn header(file: &[u8]) -> Result<Header, PhotoFileError> {
    let decoder = open(file)?;
    let (width, height) = decoder.dimensions();
    let per_pixel = if decoder.has_animation() {
        BYTES_OF_LAYERS
    } else if is_lossless(file) {
        BYTES_OF_LOSSLESS
    } else if decoder.color_type().has_alpha() {
        BYTES_OF_LAYERS
    } else {
        BYTES_OF_LOSSY
    };
    let pixels = u64::from(width) * u64::from(height);
    Ok(Header { width, height, decoder_bytes: per_pixel * pixels + file.len() as u64 })
}

/// Whether the image is lossless, by the chunk that the decoder takes it from.
fn is_lossless(file: &[u8]) -> bool {
    let mut at: usize = 12; // behind `RIFF`, the size and `WEBP`
    while let Some(&[a, b, c, d, e, f, g, h]) = file.get(at..at.saturating_add(8)) {
        if [a, b, c, d] == *b"VP8L" {
            return true;
        }
        let size = u32::from_le_bytes([e, f, g, h]) as usize;
        at = at.saturating_add(8 + size + size % 2);
    }
    false
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
