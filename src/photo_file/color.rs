//! The colours of a file, converted to sRGB.
//!
//! A profile that cannot be read or does not fit the image is left out, as viewers do.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage, RgbaImage};
use moxcms::{
    Chromaticity, CicpProfile, ColorPrimaries, ColorProfile, DataColorSpace, Layout,
    RenderingIntent, ToneReprCurve, TransformOptions,
};

/// The gamma of a PNG that is meant for the curve of sRGB: `1 / 2.2`.
const SRGB_GAMMA: f32 = 0.45455;
/// What libpng takes for the same gamma.
const GAMMA_TOLERANCE: f32 = 0.05 * SRGB_GAMMA;
/// Gammas that libpng believes.
const GAMMAS: std::ops::RangeInclusive<f32> = 0.000_16..=6.25;
/// A profile that changes no colour by more than this, in levels, is that of sRGB.
const SRGB_TOLERANCE: u8 = 2;

/// What converts an image from its profile: pixels of the source, row by row, to pixels of sRGB.
type Transform = std::sync::Arc<moxcms::Transform8BitExecutor>;

/// The profile of a file's colours, or `None` if they are sRGB.
pub(super) fn source_profile(
    file: &[u8],
    format: ImageFormat,
    icc_profile: Option<&[u8]>,
) -> Option<ColorProfile> {
    let embedded = icc_profile.and_then(|bytes| ColorProfile::new_from_slice(bytes).ok());
    let profile = match format {
        ImageFormat::Png => png_profile(file, embedded),
        _ => embedded,
    };
    profile.filter(|profile| !is_srgb(profile))
}

/// Converts an image of 8 bits to sRGB; it stays as it is where the profile is not of its kind, such as one for inks.
pub(super) fn to_srgb(image: DynamicImage, profile: &ColorProfile) -> DynamicImage {
    converted(&image, profile).unwrap_or(image)
}

fn converted(image: &DynamicImage, profile: &ColorProfile) -> Option<DynamicImage> {
    let (width, height) = (image.width(), image.height());
    let is_gray = profile.color_space == DataColorSpace::Gray;
    if image.color().has_alpha() {
        let pixels = match (is_gray, image) {
            (true, DynamicImage::ImageLumaA8(gray)) => convert(gray, profile, Layout::GrayAlpha),
            (true, _) => None,
            (false, _) => convert(&image.to_rgba8(), profile, Layout::Rgba),
        };
        Some(RgbaImage::from_raw(width, height, pixels?)?.into())
    } else {
        let pixels = match (is_gray, image) {
            (true, DynamicImage::ImageLuma8(gray)) => convert(gray, profile, Layout::Gray),
            (true, _) => None,
            (false, _) => convert(&image.to_rgb8(), profile, Layout::Rgb),
        };
        Some(RgbImage::from_raw(width, height, pixels?)?.into())
    }
}

/// Converts pixels to sRGB, with alpha if they have it.
fn convert(pixels: &[u8], profile: &ColorProfile, layout: Layout) -> Option<Vec<u8>> {
    let to = match layout {
        Layout::GrayAlpha | Layout::Rgba => Layout::Rgba,
        _ => Layout::Rgb,
    };
    let transform: Transform =
        profile.create_transform_8bit(layout, &ColorProfile::new_srgb(), to, options()).ok()?;
    let mut srgb = vec![0; pixels.len() / layout.channels() * to.channels()];
    transform.transform(pixels, &mut srgb).ok()?;
    Some(srgb)
}

fn options() -> TransformOptions {
    TransformOptions {
        rendering_intent: RenderingIntent::RelativeColorimetric,
        ..TransformOptions::default()
    }
}

/// Whether the profile leaves colours as they are: no file is to change by rounding alone.
fn is_srgb(profile: &ColorProfile) -> bool {
    const LEVELS: [u8; 6] = [0, 25, 76, 127, 191, 255];
    if profile.color_space != DataColorSpace::Rgb {
        return false;
    }
    let mut colors = Vec::new();
    for red in LEVELS {
        for green in LEVELS {
            LEVELS.iter().for_each(|&blue| colors.extend([red, green, blue]));
        }
    }
    convert(&colors, profile, Layout::Rgb).is_some_and(|converted| {
        converted.iter().zip(&colors).all(|(one, other)| one.abs_diff(*other) <= SRGB_TOLERANCE)
    })
}

/// The profile of a PNG by its chunks, the strongest first: `cICP`, `iCCP`, `sRGB`, `gAMA` with `cHRM`.
fn png_profile(file: &[u8], embedded: Option<ColorProfile>) -> Option<ColorProfile> {
    let reader = png::Decoder::new(Cursor::new(file)).read_info().ok()?;
    let info = reader.info();
    let coded = info.coding_independent_code_points.and_then(profile_of_code_points);
    coded.or(embedded).or_else(|| match info.srgb {
        Some(_) => None,
        None => profile_of_gamma(info.gama_chunk?.into_value(), info.chrm_chunk),
    })
}

/// `None` for what is not plain RGB of a standard dynamic range.
fn profile_of_code_points(points: png::CodingIndependentCodePoints) -> Option<ColorProfile> {
    /// Perceptual quantization and hybrid log-gamma, which need tone mapping.
    const HIGH_DYNAMIC_RANGE: [u8; 2] = [16, 18];
    if points.matrix_coefficients != 0
        || !points.is_video_full_range_image
        || HIGH_DYNAMIC_RANGE.contains(&points.transfer_function)
    {
        return None;
    }
    let mut profile = ColorProfile::new_srgb();
    profile.update_rgb_colorimetry_from_cicp(CicpProfile {
        color_primaries: points.color_primaries.try_into().ok()?,
        transfer_characteristics: points.transfer_function.try_into().ok()?,
        matrix_coefficients: moxcms::MatrixCoefficients::Identity,
        full_range: true,
    });
    Some(profile)
}

/// - `gamma`: the exponent from light to samples
fn profile_of_gamma(
    gamma: f32,
    primaries: Option<png::SourceChromaticities>,
) -> Option<ColorProfile> {
    if !GAMMAS.contains(&gamma) {
        return None;
    }
    let mut profile = ColorProfile::new_srgb();
    if let Some(primaries) = primaries.filter(are_plausible) {
        let point = |(x, y): (png::ScaledFloat, png::ScaledFloat)| Chromaticity {
            x: x.into_value(),
            y: y.into_value(),
        };
        let colors = ColorPrimaries {
            red: point(primaries.red),
            green: point(primaries.green),
            blue: point(primaries.blue),
        };
        profile.update_rgb_colorimetry(point(primaries.white).to_xyyb(), colors);
    }
    profile.cicp = None;
    if (gamma - SRGB_GAMMA).abs() > GAMMA_TOLERANCE {
        let curve = ToneReprCurve::Parametric(vec![1.0 / gamma]);
        profile.red_trc = Some(curve.clone());
        profile.green_trc = Some(curve.clone());
        profile.blue_trc = Some(curve);
    }
    Some(profile)
}

/// Whether the primaries span a triangle.
fn are_plausible(primaries: &png::SourceChromaticities) -> bool {
    let point = |(x, y): (png::ScaledFloat, png::ScaledFloat)| (x.into_value(), y.into_value());
    let [white, red, green, blue] =
        [primaries.white, primaries.red, primaries.green, primaries.blue].map(point);
    let area = (green.0 - red.0) * (blue.1 - red.1) - (blue.0 - red.0) * (green.1 - red.1);
    area.abs() > 0.01 && [white, red, green, blue].iter().all(|point| point.1 > 0.0)
}

#[cfg(test)]
mod tests {
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
}
