//! Turns an uploaded file into a clean PNG, or returns why it cannot be one.
//!
//! Files come from strangers. Only the pixels are kept: no place of capture, no camera, no data behind the image.

use std::io::{BufWriter, Write};

use image::codecs::png::PngEncoder;
use sha2::{Digest as _, Sha256};
use tempfile::SpooledTempFile;

use crate::domain::code::Code;
use crate::domain::digest::Digest;
use crate::domain::image::{MAX_PHOTO_BYTES, MAX_PHOTOS, MIN_PHOTO_SIDE};
use crate::domain::photo::{Finding, Measures, Thumbnail};
use crate::photo_file::{self, PhotoFileError, Pixels};

/// The most pixels, in bytes, that are encoded by the encoder that keeps the PNG in memory.
const ENCODED_WHOLE: u64 = 48 << 20;

/// The most of a PNG that is in memory until it is stored. The rest is on the disk.
const IN_MEMORY: usize = 256 << 10;

/// A photo as it is stored.
#[derive(Debug)]
pub(super) struct Photo {
    /// The PNG, written to its end.
    pub(super) png: SpooledTempFile,
    pub(super) size_bytes: u64,
    pub(super) width: u32,
    pub(super) height: u32,
    /// The digest of the PNG.
    pub(super) sha256: Digest,
    /// What was measured of the pixels.
    pub(super) measured: (Measures, Thumbnail),
}

/// Why a file cannot be a photo of a concept.
#[derive(Debug, thiserror::Error)]
pub enum PhotoError {
    #[error("the file has more than {MAX_PHOTO_BYTES} bytes")]
    TooManyBytes,
    #[error("the image has {width}x{height} pixels; each side needs at least {MIN_PHOTO_SIDE}")]
    TooSmall { width: u32, height: u32 },
    /// It can be decoded, and teaches nothing.
    #[error("{}", .0.detail)]
    Failed(Finding),
    #[error("the concept has this photo already")]
    Duplicate,
    #[error("a concept has at most {MAX_PHOTOS} photos")]
    TooMany,
    #[error(transparent)]
    File(#[from] PhotoFileError),
    /// The machine failed, not the file.
    #[error("the photo cannot be written to a temporary file: {0}")]
    Disk(String),
}

impl PhotoError {
    /// The code that clients get.
    pub fn code(&self) -> Code {
        match self {
            Self::File(PhotoFileError::TooLarge { .. } | PhotoFileError::TooCostly { .. })
            | Self::TooManyBytes => Code::ImageTooLarge,
            Self::File(PhotoFileError::Unsupported { .. }) => Code::UnsupportedImage,
            Self::File(
                PhotoFileError::Empty
                | PhotoFileError::GitLfsPointer
                | PhotoFileError::UnknownFormat
                | PhotoFileError::Polyglot(_)
                | PhotoFileError::Damaged(_),
            ) => Code::ImageUnreadable,
            Self::TooSmall { .. } => Code::ImageTooSmall,
            Self::Failed(finding) => finding.code,
            Self::Duplicate => Code::DuplicateImage,
            Self::TooMany => Code::TooManyImages,
            Self::Disk(_) => Code::InternalError,
        }
    }
}

/// What decoding a file and encoding it again takes in memory.
///
/// # Errors
/// [`PhotoError`] if its header says that it cannot be a photo.
pub(super) fn cost(file: &[u8]) -> Result<u64, PhotoError> {
    let header = photo_file::header(file)?;
    if header.width < MIN_PHOTO_SIDE || header.height < MIN_PHOTO_SIDE {
        return Err(PhotoError::TooSmall { width: header.width, height: header.height });
    }
    let rgb = 3 * u64::from(header.width) * u64::from(header.height);
    let encoding = if rgb <= ENCODED_WHOLE { 3 * rgb } else { rgb + rgb / 16 };
    Ok(file.len() as u64 + header.decoder_bytes.max(encoding))
}

/// Decodes a file to upright sRGB pixels, and encodes them alone.
pub(super) fn normalize(file: &[u8]) -> Result<Photo, PhotoError> {
    let pixels = photo_file::read(file)?;
    let (size, measured) = (pixels.upright_dimensions(), pixels.measure());
    photo_of(size, measured, |sink| encode(pixels, sink))
}

/// The same for a mask, which is stored in gray.
pub(super) fn normalize_mask(file: &[u8]) -> Result<Photo, PhotoError> {
    let pixels = photo_file::read(file)?;
    let (size, measured) = (pixels.upright_dimensions(), pixels.measure());
    photo_of(size, measured, |sink| {
        let gray = image::imageops::grayscale(&pixels.into_upright());
        gray.write_with_encoder(PngEncoder::new(sink)).map_err(std::io::Error::other)
    })
}

fn photo_of(
    (width, height): (u32, u32),
    measured: (Measures, Thumbnail),
    encode: impl FnOnce(&mut Hashing<BufWriter<SpooledTempFile>>) -> std::io::Result<()>,
) -> Result<Photo, PhotoError> {
    if width < MIN_PHOTO_SIDE || height < MIN_PHOTO_SIDE {
        return Err(PhotoError::TooSmall { width, height });
    }
    let spool = SpooledTempFile::new(IN_MEMORY);
    let mut sink = Hashing { sink: BufWriter::new(spool), hash: Sha256::new(), size_bytes: 0 };
    encode(&mut sink).map_err(|error| PhotoError::Disk(error.to_string()))?;
    let Hashing { sink, hash, size_bytes } = sink;
    let png = sink.into_inner().map_err(|error| PhotoError::Disk(error.to_string()))?;
    let sha256 = Digest::from(data_encoding::HEXLOWER.encode(&hash.finalize()));
    Ok(Photo { png, size_bytes, width, height, sha256, measured })
}

/// Writes a PNG of the upright pixels.
///
/// The encoder that has always been used keeps the PNG in memory, and equal pixels give equal files. Only what is larger than
/// any camera of a phone takes is written row by row.
fn encode(pixels: Pixels, sink: &mut impl Write) -> std::io::Result<()> {
    let (width, height) = pixels.upright_dimensions();
    if pixels.image.as_raw().len() as u64 <= ENCODED_WHOLE {
        let image = pixels.into_upright();
        return image.write_with_encoder(PngEncoder::new(sink)).map_err(std::io::Error::other);
    }
    let mut encoder = png::Encoder::new(sink, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Adaptive);
    let mut writer = encoder.write_header().map_err(std::io::Error::other)?;
    let mut stream = writer.stream_writer().map_err(std::io::Error::other)?;
    pixels.for_each_upright_band(|rows| stream.write_all(rows))?;
    stream.finish().map_err(std::io::Error::other)
}

/// Counts and hashes what passes through.
struct Hashing<W> {
    sink: W,
    hash: Sha256,
    size_bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read, Seek};

    use image::{ImageFormat, RgbImage};

    use super::*;

    fn image_of(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, (x ^ y) as u8]))
    }

    fn encoded(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, format).unwrap();
        file.into_inner()
    }

    /// The PNG that would be stored.
    fn bytes(mut photo: Photo) -> Vec<u8> {
        let mut png = Vec::new();
        photo.png.rewind().unwrap();
        photo.png.read_to_end(&mut png).unwrap();
        assert_eq!((png.len() as u64, Digest::of(&png)), (photo.size_bytes, photo.sha256));
        png
    }

    /// A JPEG whose EXIF segment says orientation 6: the camera was rotated, show the image a quarter to the right.
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

        assert_eq!(image::load_from_memory(&bytes(photo)).unwrap().to_rgb8(), image);
    }

    #[test]
    fn the_orientation_is_applied_and_the_metadata_dropped() {
        let photo = normalize(&turned_jpeg(&image_of(40, 50))).unwrap();

        assert_eq!((photo.width, photo.height), (50, 40));
        assert!(!bytes(photo).windows(4).any(|bytes| bytes == b"Exif" || bytes == b"eXIf"));
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
        // The header of a real PNG with other dimensions and a corrected checksum: 38 bytes for 2.7 GB.
        let mut file = encoded(&image_of(32, 32), ImageFormat::Png);
        file[16..20].copy_from_slice(&30_000_u32.to_be_bytes());
        file[20..24].copy_from_slice(&30_000_u32.to_be_bytes());
        let checksum = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&checksum.to_be_bytes());

        let error = normalize(&file).unwrap_err();

        assert!(
            matches!(
                error,
                PhotoError::File(PhotoFileError::TooLarge { width: 30_000, height: 30_000 })
            ),
            "{error}"
        );
    }

    #[test]
    fn other_files_are_refused() {
        for file in [&b"hello"[..], b"", b"<svg xmlns='http://www.w3.org/2000/svg'/>"] {
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
            image::load_from_memory(&bytes(normalize(file.get_ref()).unwrap())).unwrap().to_rgb8();

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
