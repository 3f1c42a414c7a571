//! Whether a JPEG is whole. Decoders fill up what is missing with grey, which no training should see.

use std::borrow::Cow;

use image::{ImageFormat, RgbImage};

const END_OF_IMAGE: u8 = 0xd9;

/// The file with an end of image, or `None` if part of the image is missing.
///
/// Some cameras and cut transfers leave the last two bytes out. Then the image is whole if it does not depend on what
/// follows.
pub(super) fn with_end_of_image(file: &[u8]) -> Option<Cow<'_, [u8]>> {
    if has_end_of_image(file) {
        return Some(Cow::Borrowed(file));
    }
    let data = &file[..file.len() - file.iter().rev().take_while(|&&byte| byte == 0xff).count()];
    let continued = |filler: &[u8]| [data, filler, &[0xff, END_OF_IMAGE]].concat();
    let (one, other) = (continued(&[0x00; 64]), continued(&[0x6a; 64]));
    (pixels(&one)? == pixels(&other)?).then(|| Cow::Owned(continued(&[])))
}

fn pixels(file: &[u8]) -> Option<RgbImage> {
    let image = image::load_from_memory_with_format(file, ImageFormat::Jpeg).ok()?;
    Some(image.into_rgb8())
}

/// Walks a JPEG from marker to marker and returns whether it reaches the end of the image.
///
/// Stray bytes before a marker are skipped, as libjpeg skips them.
fn has_end_of_image(file: &[u8]) -> bool {
    let mut at = 2; // behind the start of image
    while let Some((marker, content)) = next_marker(file, at) {
        at = match marker {
            END_OF_IMAGE => return true,
            0x01 | 0xd0..=0xd8 => content, // no content
            _ => {
                let Some(&[high, low]) = file.get(content..content + 2) else { return false };
                content + usize::from(u16::from_be_bytes([high, low]))
            }
        };
    }
    false
}

/// The next marker and where its content begins. Stuffed bytes of entropy-coded data are none.
fn next_marker(file: &[u8], mut at: usize) -> Option<(u8, usize)> {
    loop {
        at += file.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        at += file.get(at..)?.iter().position(|&byte| byte != 0xff)?;
        if file[at] != 0x00 {
            return Some((file[at], at + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;

    use super::*;

    fn jpeg() -> Vec<u8> {
        let image =
            RgbImage::from_fn(96, 64, |x, y| image::Rgb([2 * x as u8, 3 * y as u8, (x * y) as u8]));
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, 90).encode_image(&image).unwrap();
        file
    }

    #[test]
    fn stray_bytes_before_any_segment_are_skipped() {
        let whole = jpeg();
        let mut at = 2;
        while let Some((marker, content)) = next_marker(&whole, at) {
            for stray in [&[0, 0][..], &[0; 40], &[0x12, 0x34, 0x56], &[0xff, 0xff]] {
                let mut file = whole.clone();
                file.splice(content - 2..content - 2, stray.iter().copied());

                assert!(with_end_of_image(&file).is_some(), "{stray:?} before {marker:x}");
                assert_eq!(pixels(&file), pixels(&whole), "{stray:?} before {marker:x}");
            }
            if marker == END_OF_IMAGE {
                break;
            }
            at = content + usize::from(u16::from_be_bytes([whole[content], whole[content + 1]]));
        }
    }

    #[test]
    fn a_whole_image_may_lack_its_end_marker() {
        let whole = jpeg();
        for missing in [1, 2] {
            let file = with_end_of_image(&whole[..whole.len() - missing]).unwrap();

            assert_eq!(pixels(&file), pixels(&whole), "{missing} bytes missing");
        }
    }

    #[test]
    fn an_image_with_missing_data_is_not_whole() {
        let whole = jpeg();
        for missing in [5, 20, 300] {
            assert!(with_end_of_image(&whole[..whole.len() - missing]).is_none(), "{missing}");
        }
    }
}
