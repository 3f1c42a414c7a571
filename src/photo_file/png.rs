//! PNG, row by row: besides the image itself, one row is in memory, however many bits the file has.

use std::io::Cursor;

use ::png::{
    ColorType, Decoder, DecodingError, InterlaceInfo, Limits, Reader, Transformations,
    expand_interlaced_row,
};
use image::RgbImage;
use image::metadata::Orientation;

use super::color::{self, Channels, IgnoredProfile, ToSrgb};
use super::{Header, PhotoFileError, Pixels};

/// The most bytes of all chunks beside the image. An ICC profile of 4 MB is the largest that is used.
const MAX_METADATA_BYTES: usize = 16 << 20;

impl From<DecodingError> for PhotoFileError {
    fn from(error: DecodingError) -> Self {
        Self::Damaged(error.to_string())
    }
}

fn open(file: &[u8]) -> Result<Reader<Cursor<&[u8]>>, PhotoFileError> {
    let limits = Limits { bytes: MAX_METADATA_BYTES };
    let mut decoder = Decoder::new_with_limits(Cursor::new(file), limits);
    decoder.set_ignore_text_chunk(true);
    // Of 16 bits, the high byte, as libpng does it; palettes and few bits become 8 bits a channel.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    Ok(decoder.read_info()?)
}

/// Size and cost from the first chunk, before anything is unpacked.
pub(super) fn header(file: &[u8]) -> Result<Header, PhotoFileError> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(file), Limits { bytes: 1 << 16 });
    let info = decoder.read_header_info()?;
    let (width, height) = (info.width, info.height);
    let pixels = u64::from(width) * u64::from(height);
    let metadata = if has_profile(file) { 2 * MAX_METADATA_BYTES as u64 } else { 0 };
    Ok(Header { width, height, decoder_bytes: 3 * pixels + metadata + 16 * 8 * u64::from(width) })
}

/// Whether there is an ICC profile before the image. It may unpack to a thousand times its size.
fn has_profile(file: &[u8]) -> bool {
    let mut at: usize = 8; // behind the signature
    while let Some(&[a, b, c, d, ref kind @ ..]) = file.get(at..at.saturating_add(8)) {
        match kind {
            b"iCCP" => return true,
            b"IDAT" => return false,
            _ => at = at.saturating_add(12 + u32::from_be_bytes([a, b, c, d]) as usize),
        }
    }
    false
}

pub(super) fn read(file: &[u8]) -> Result<Pixels, PhotoFileError> {
    let mut reader = open(file)?;
    let channels = match reader.output_color_type().0 {
        ColorType::Grayscale => Channels::Gray,
        ColorType::GrayscaleAlpha => Channels::GrayAlpha,
        ColorType::Rgb | ColorType::Indexed => Channels::Rgb, // indexed ones are expanded
        ColorType::Rgba => Channels::Rgba,
    };
    let info = reader.info();
    let (width, height) = (info.width, info.height);
    let embedded = match &info.icc_profile {
        Some(profile) => Some(color::fitting(profile, channels)),
        None if has_profile(file) => Some(Err(IgnoredProfile::Unreadable)),
        None => None,
    };
    let ignored_profile = embedded.as_ref().and_then(|found| found.as_ref().err()).copied();
    let usable = embedded.and_then(Result::ok);
    let has_usable = usable.is_some();
    let profile = color::profile_of_chunks(info, usable.flatten(), has_usable);
    let exif = info.exif_metadata.as_deref();
    let orientation = exif.and_then(Orientation::from_exif_chunk);

    let mut to_srgb = ToSrgb::new(channels, profile.as_ref());
    let mut image = RgbImage::new(width, height);
    let stride = 3 * width as usize;
    let pixels: &mut [u8] = &mut image;
    let mut rgb = Vec::new();
    let mut line = 0;
    while let Some(row) = reader.next_interlaced_row()? {
        rgb.resize(row.data().len() / channels.count() * 3, 0);
        to_srgb.convert(row.data(), &mut rgb);
        match row.interlace() {
            InterlaceInfo::Null(_) => {
                pixels[line * stride..][..stride].copy_from_slice(&rgb);
                line += 1;
            }
            InterlaceInfo::Adam7(pass) => {
                expand_interlaced_row(pixels, stride, &rgb, pass, 24);
            }
        }
    }
    Ok(Pixels {
        image,
        orientation: orientation.unwrap_or(Orientation::NoTransforms),
        ignored_profile,
    })
}
