//! The colours of a PNG that has no usable ICC profile, by its chunks.

use moxcms::{Chromaticity, CicpProfile, ColorPrimaries, ColorProfile, ToneReprCurve};

/// The gamma of a PNG that is meant for the curve of sRGB: `1 / 2.2`.
const SRGB_GAMMA: f32 = 0.45455;
/// What libpng takes for the same gamma.
const GAMMA_TOLERANCE: f32 = 0.05 * SRGB_GAMMA;
/// Gammas that libpng believes.
const GAMMAS: std::ops::RangeInclusive<f32> = 0.000_16..=6.25;

/// The profile of a PNG, or `None` if it is that of sRGB. The strongest chunk comes first: `cICP`, `iCCP`, `sRGB`, `gAMA` with `cHRM`.
///
/// - `embedded`: what the chunk `iCCP` has, unless it is that of sRGB
/// - `has_embedded`: whether that chunk can be used
pub(in crate::photo_file) fn profile_of_chunks(
    info: &::png::Info<'_>,
    embedded: Option<ColorProfile>,
    has_embedded: bool,
) -> Option<ColorProfile> {
    let coded = info.coding_independent_code_points.and_then(profile_of_code_points);
    if coded.is_some() {
        return coded.and_then(super::unless_srgb);
    }
    if has_embedded {
        return embedded;
    }
    match info.srgb {
        Some(_) => None,
        None => profile_of_gamma(info.gama_chunk?.into_value(), info.chrm_chunk)
            .and_then(super::unless_srgb),
    }
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
