//! Whether a JPEG is whole.

use image::codecs::jpeg::JpegEncoder;

use super::segments::{END_OF_IMAGE, next_marker};
use super::*;

/// The pixels of a file that is whole.
fn pixels(file: &[u8]) -> Option<RgbImage> {
    read(file).ok().map(|pixels| pixels.image)
}

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
    let wanted = pixels(&whole);
    assert!(wanted.is_some());
    let mut at = 2;
    while let Some((marker, content)) = next_marker(&whole, at) {
        for stray in [&[0, 0][..], &[0; 40], &[0x12, 0x34, 0x56], &[0xff, 0xff]] {
            let mut file = whole.clone();
            file.splice(content - 2..content - 2, stray.iter().copied());

            assert_eq!(pixels(&file), wanted, "{stray:?} before {marker:x}");
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
        let cut = &whole[..whole.len() - missing];

        assert_eq!(pixels(cut), pixels(&whole), "{missing} bytes missing");
    }
}

#[test]
fn an_image_with_missing_data_is_not_whole() {
    let whole = jpeg();
    for missing in [5, 20, 300] {
        assert!(pixels(&whole[..whole.len() - missing]).is_none(), "{missing}");
    }
}
