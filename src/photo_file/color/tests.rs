//! Colours of files as a colour-managed viewer shows them.

use std::io::Write;

use image::ImageEncoder;
use image::codecs::png::PngEncoder;

use crate::photo_file::decode;

use super::*;

/// A color, and what a color-managed viewer shows of it in Display P3 (as Little CMS converts it).
const DISPLAY_P3: [([u8; 3], [u8; 3]); 4] = [
    ([200, 100, 50], [215, 93, 31]),
    ([128, 128, 128], [128, 128, 128]),
    ([255, 0, 0], [255, 0, 0]),
    ([20, 200, 60], [0, 204, 13]),
];

fn png(pixels: &[u8], color: image::ExtendedColorType, profile: &ColorProfile) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = PngEncoder::new(&mut file);
    encoder.set_icc_profile(profile.encode().unwrap()).unwrap();
    encoder.write_image(pixels, 1, 1, color).unwrap();
    file
}

/// A PNG of one gray pixel with a chunk behind its header.
fn png_with(chunks: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 1, 1);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    for (name, content) in chunks {
        let kind = png::chunk::ChunkType(name.as_bytes().try_into().unwrap());
        writer.write_chunk(kind, content).unwrap();
    }
    let mut stream = writer.stream_writer().unwrap();
    stream.write_all(&[128; 3]).unwrap();
    stream.finish().unwrap();
    writer.finish().unwrap();
    file
}

fn is_near(one: [u8; 3], other: [u8; 3]) -> bool {
    one.iter().zip(other).all(|(one, other)| one.abs_diff(other) <= 2)
}

#[test]
fn colors_of_a_wide_gamut_are_converted_to_srgb() {
    let p3 = ColorProfile::new_display_p3();
    for (color, wanted) in DISPLAY_P3 {
        let opaque = decode(&png(&color, image::ExtendedColorType::Rgb8, &p3)).unwrap();
        let [r, g, b] = color;
        let file = png(&[r, g, b, 255], image::ExtendedColorType::Rgba8, &p3);
        let with_alpha = decode(&file).unwrap();

        assert!(is_near(opaque[(0, 0)].0, wanted), "{color:?} became {:?}", opaque[(0, 0)]);
        assert_eq!(with_alpha, opaque);
    }
}

#[test]
fn gray_images_follow_gray_and_colored_profiles() {
    let linear = ColorProfile::new_gray_with_gamma(1.0);
    let gray = decode(&png(&[55], image::ExtendedColorType::L8, &linear)).unwrap();
    let p3 = ColorProfile::new_display_p3();
    let neutral = decode(&png(&[55], image::ExtendedColorType::L8, &p3)).unwrap();

    assert!(is_near(gray[(0, 0)].0, [128; 3]), "{gray:?}");
    assert!(is_near(neutral[(0, 0)].0, [55; 3]), "{neutral:?}");
}

#[test]
fn an_srgb_profile_or_one_that_does_not_fit_changes_no_byte() {
    let color = [200, 100, 50];
    let profiles = [ColorProfile::new_srgb(), ColorProfile::new_gray_with_gamma(1.0)];
    for profile in profiles {
        let image = decode(&png(&color, image::ExtendedColorType::Rgb8, &profile)).unwrap();

        assert_eq!(image[(0, 0)].0, color);
    }
}

#[test]
fn color_chunks_of_a_png_count_by_their_rank() {
    let linear = 100_000_u32.to_be_bytes();
    let usual = 45_455_u32.to_be_bytes();
    let seen = |chunks: &[(&str, &[u8])]| decode(&png_with(chunks)).unwrap()[(0, 0)].0;

    assert_eq!(seen(&[]), [128; 3]);
    assert_eq!(seen(&[("gAMA", &usual)]), [128; 3]);
    assert!(is_near(seen(&[("gAMA", &linear)]), [188; 3]));
    assert_eq!(seen(&[("sRGB", &[0]), ("gAMA", &linear)]), [128; 3]);
    assert!(is_near(seen(&[("cICP", &[1, 8, 0, 1])]), [188; 3]), "linear light");
    assert_eq!(seen(&[("cICP", &[1, 13, 0, 1]), ("gAMA", &linear)]), [128; 3]);
    assert_eq!(seen(&[("gAMA", &[0; 4])]), [128; 3]);
}

/// Files and what Little CMS shows of them: `tests/support/colors/record.py`.
#[test]
fn profiles_that_fit_are_converted_and_others_left_out() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/colors");
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    let expected: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&expected).unwrap();
    let mut wrong = Vec::new();
    for (name, case) in &expected {
        let file = std::fs::read(folder.join(name)).unwrap();

        let pixels = crate::photo_file::read(&file).unwrap();

        let wanted: Vec<[u8; 3]> = serde_json::from_value(case["seen"].clone()).unwrap();
        let seen: Vec<[u8; 3]> =
            (0..8).map(|stripe| pixels.image[(8 * stripe + 4, 32)].0).collect();
        let is_near = |(one, other): (&[u8; 3], &[u8; 3])| {
            one.iter().zip(other).all(|(one, other)| one.abs_diff(*other) <= 3)
        };
        let is_ignored = pixels.ignored_profile.is_some();
        if !seen.iter().zip(&wanted).all(is_near) || case["ignored"] != is_ignored {
            wrong
                .push(format!("{name}: {seen:?}, wanted {wanted:?}; {:?}", pixels.ignored_profile));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(expected.len(), 15);
}

#[test]
fn a_profile_of_megabytes_is_left_out_or_used_and_never_refuses_the_photo() {
    let random: Vec<u8> =
        (0..4_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut file = Vec::new();
    let mut encoder = PngEncoder::new(&mut file);
    encoder.set_icc_profile(random).unwrap();
    encoder.write_image(&[200, 100, 50], 1, 1, image::ExtendedColorType::Rgb8).unwrap();

    let pixels = crate::photo_file::read(&file).unwrap();

    assert_eq!(pixels.image[(0, 0)].0, [200, 100, 50]);
    assert_eq!(pixels.ignored_profile, Some(IgnoredProfile::Unreadable));
}
