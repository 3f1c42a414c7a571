//! JPEG, also progressive and of four inks.

mod segments;

use image::RgbImage;
use image::metadata::Orientation;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::color::{self, Channels, IgnoredProfile, ToSrgb};
use super::{Header, PhotoFileError, Pixels};
use crate::domain::digest::Digest;
use crate::domain::image::MAX_PHOTO_SIDE;

use self::segments::Segments;

/// Each scan of a progressive JPEG goes over the whole image. Encoders write about ten.
const MAX_SCANS: usize = 100;

impl From<DecodeErrors> for PhotoFileError {
    fn from(error: DecodeErrors) -> Self {
        Self::Damaged(error.to_string())
    }
}

type Decoder<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

/// A decoder that has read the headers.
fn open(file: &[u8]) -> Result<Decoder<'_>, PhotoFileError> {
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(MAX_PHOTO_SIDE as usize)
        .set_max_height(MAX_PHOTO_SIDE as usize);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers()?;
    Ok(decoder)
}

pub(super) fn header(file: &[u8]) -> Result<Header, PhotoFileError> {
    let segments = Segments::of(file);
    let Some(frame) = &segments.frame else {
        return Err(PhotoFileError::Damaged("it has no frame header".to_owned()));
    };
    if segments.scans > MAX_SCANS {
        let scans = segments.scans;
        let text = format!("it has {scans} scans, at most {MAX_SCANS} are taken");
        return Err(PhotoFileError::Damaged(text));
    }
    let (width, height) = (u32::from(frame.width), u32::from(frame.height));
    let pixels = u64::from(width) * u64::from(height);
    // Gray becomes RGB in a copy; four inks become three colours in place.
    let channels = if frame.components == 3 { 3 } else { 4 };
    let coefficients = if frame.is_kept_whole { frame.coefficient_bytes() } else { 0 };
    let rows = 64 * 16 * u64::from(width); // some rows of every component
    let copies = if segments.reaches_end { 0 } else { 2 * file.len() as u64 };
    Ok(Header {
        width,
        height,
        decoder_bytes: channels * pixels
            + coefficients
            + rows
            + copies
            + 3 * segments.profile_bytes,
    })
}

pub(super) fn read(file: &[u8]) -> Result<Pixels, PhotoFileError> {
    let segments = Segments::of(file);
    if segments.reaches_end {
        return decode(file, &segments);
    }
    // Some cameras and cut transfers leave the last two bytes out. Decoders fill up what is missing with grey, which no training
    // should see. The image is whole if it does not depend on what follows.
    let data = &file[..file.len() - file.iter().rev().take_while(|&&byte| byte == 0xff).count()];
    let continued = |filler: &[u8]| [data, filler, &[0xff, segments::END_OF_IMAGE]].concat();
    let digest = |filler: u8| {
        let pixels = decode(&continued(&[filler; 64]), &segments);
        pixels.map(|pixels| Digest::of(pixels.image.as_raw()))
    };
    match (digest(0x00), digest(0x6a)) {
        (Ok(one), Ok(other)) if one == other => decode(&continued(&[]), &segments),
        _ => Err(PhotoFileError::Damaged("no end of image".to_owned())),
    }
}

fn decode(file: &[u8], segments: &Segments) -> Result<Pixels, PhotoFileError> {
    let mut decoder = open(file)?;
    // What cannot be read of the metadata is no reason to refuse the pixels.
    let exif = decoder.exif().map(Vec::as_slice);
    let orientation = exif.and_then(Orientation::from_exif_chunk);
    let orientation = orientation.unwrap_or(Orientation::NoTransforms);
    let (stored, channels) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (ColorSpace::Luma, Channels::Gray),
        Some(inks @ (ColorSpace::CMYK | ColorSpace::YCCK)) => (inks, Channels::Cmyk),
        _ => (ColorSpace::RGB, Channels::Rgb),
    };
    let profile = match decoder.icc_profile() {
        Some(profile) => color::fitting(&profile, channels),
        None if segments.profile_bytes > 0 => Err(IgnoredProfile::Unreadable),
        None => Ok(None),
    };
    let (profile, ignored_profile) = match profile {
        Ok(profile) => (profile, None),
        Err(reason) => (None, Some(reason)),
    };
    // Without a profile, the decoder's own conversion of inks is as good as any.
    let (stored, channels) = match channels {
        Channels::Cmyk if profile.is_none() => (ColorSpace::RGB, Channels::Rgb),
        channels => (stored, channels),
    };
    decoder.set_options(decoder.options().jpeg_set_out_colorspace(stored));
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let mut image = vec![0; channels.count() * width * height];
    decoder.decode_into(&mut image)?;

    let mut to_srgb = ToSrgb::new(channels, profile.as_ref());
    let (stride, rgb_stride) = (channels.count() * width, 3 * width);
    if channels == Channels::Gray {
        let mut rgb = vec![0; rgb_stride * height];
        for (row, place) in image.chunks_exact(stride).zip(rgb.chunks_exact_mut(rgb_stride)) {
            to_srgb.convert(row, place);
        }
        image = rgb;
    } else if profile.is_some() {
        let mut rgb = vec![0; rgb_stride];
        for line in 0..height {
            let row = &mut image[line * stride..][..stride];
            if channels == Channels::Cmyk {
                to_ink(row, stored, segments.is_adobe);
            }
            to_srgb.convert(row, &mut rgb);
            // Three bytes a pixel never reach the line that is read next.
            image[line * rgb_stride..][..rgb_stride].copy_from_slice(&rgb);
        }
        image.truncate(rgb_stride * height);
    }
    let image = RgbImage::from_raw(width as u32, height as u32, image).unwrap_or_default();
    Ok(Pixels { image, orientation, ignored_profile })
}

/// Pixels of four inks as amounts of ink.
///
/// - `inverted`: whether the file has what is left of the paper's white instead, as Adobe's programs write it
fn to_ink(row: &mut [u8], space: ColorSpace, inverted: bool) {
    for pixel in row.chunks_exact_mut(4) {
        if space == ColorSpace::YCCK {
            let [y, cb, cr] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
            let (cb, cr) = (cb - 128.0, cr - 128.0);
            let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
            for (to, value) in pixel.iter_mut().zip(rgb) {
                *to = 255 - value.round().clamp(0.0, 255.0) as u8;
            }
        }
        if inverted {
            pixel.iter_mut().for_each(|value| *value = 255 - *value);
        }
    }
}

#[cfg(test)]
mod tests;
