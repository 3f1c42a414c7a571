//! The colours of a file, converted to sRGB row by row.
//!
//! A profile that cannot be read or does not fit the pixels is left out, as viewers do, and the photo is read as if it had none.

mod png_chunks;
#[cfg(test)]
mod tests;

use moxcms::{
    ColorProfile, DataColorSpace, Layout, ProfileClass, RenderingIntent, TransformOptions,
};

pub(super) use self::png_chunks::profile_of_chunks;

/// A profile that changes no colour by more than this, in levels, is that of sRGB.
const SRGB_TOLERANCE: u8 = 2;

/// What converts an image from its profile: pixels of the source, row by row, to pixels of sRGB.
type Transform = std::sync::Arc<moxcms::Transform8BitExecutor>;

/// Why the ICC profile of a file is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoredProfile {
    #[error("its ICC profile is damaged, cut off or too large, so its colours are read as sRGB")]
    Unreadable,
    #[error(
        "its ICC profile is made for other kinds of pixels than the file has, so its colours are read as sRGB"
    )]
    DoesNotFit,
}

/// What the pixels of a row consist of, one byte per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channels {
    Gray,
    GrayAlpha,
    Rgb,
    Rgba,
    /// Amounts of ink, 255 for all of it.
    Cmyk,
}

impl Channels {
    pub(super) fn count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::GrayAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba | Self::Cmyk => 4,
        }
    }

    fn color_space(self) -> DataColorSpace {
        match self {
            Self::Gray | Self::GrayAlpha => DataColorSpace::Gray,
            Self::Rgb | Self::Rgba => DataColorSpace::Rgb,
            Self::Cmyk => DataColorSpace::Cmyk,
        }
    }

    fn layout(self) -> Layout {
        match self {
            Self::Gray => Layout::Gray,
            Self::GrayAlpha => Layout::GrayAlpha,
            Self::Rgb => Layout::Rgb,
            Self::Rgba | Self::Cmyk => Layout::Rgba, // moxcms takes four inks in the layout of RGBA
        }
    }
}

/// An embedded profile that fits the pixels, `Ok(None)` if it is that of sRGB.
pub(super) fn fitting(
    icc_profile: &[u8],
    channels: Channels,
) -> Result<Option<ColorProfile>, IgnoredProfile> {
    let profile = ColorProfile::new_from_slice(icc_profile);
    let profile = profile.map_err(|_| IgnoredProfile::Unreadable)?;
    let is_of_pixels = matches!(
        profile.profile_class,
        ProfileClass::InputDevice
            | ProfileClass::DisplayDevice
            | ProfileClass::OutputDevice
            | ProfileClass::ColorSpace
    );
    if !is_of_pixels || profile.color_space != channels.color_space() {
        return Err(IgnoredProfile::DoesNotFit);
    }
    if transform(&profile, channels).is_none() {
        return Err(IgnoredProfile::Unreadable);
    }
    Ok(unless_srgb(profile))
}

/// Turns rows of a file into rows of opaque sRGB.
pub(super) struct ToSrgb {
    /// What a row consists of once gray is widened for a profile of RGB.
    channels: Channels,
    widens_gray: bool,
    transform: Option<Transform>,
    wide: Vec<u8>,
    converted: Vec<u8>,
}

impl ToSrgb {
    /// - `profile`: of the pixels; one for RGB is also good for gray
    pub(super) fn new(channels: Channels, profile: Option<&ColorProfile>) -> Self {
        let is_rgb = profile.is_some_and(|profile| profile.color_space == DataColorSpace::Rgb);
        let widened = match channels {
            Channels::Gray if is_rgb => Channels::Rgb,
            Channels::GrayAlpha if is_rgb => Channels::Rgba,
            channels => channels,
        };
        Self {
            channels: widened,
            widens_gray: widened != channels,
            transform: profile.and_then(|profile| transform(profile, widened)),
            wide: Vec::new(),
            converted: Vec::new(),
        }
    }

    /// - `row`: pixels of the file
    /// - `rgb`: as many pixels of three bytes
    pub(super) fn convert(&mut self, row: &[u8], rgb: &mut [u8]) {
        let row = if self.widens_gray {
            widen(row, self.channels, &mut self.wide);
            &self.wide
        } else {
            row
        };
        let Some(transform) = &self.transform else { return plain(row, self.channels, rgb) };
        let (_, to) = layouts(self.channels);
        self.converted.resize(rgb.len() / 3 * to.channels(), 0);
        match transform.transform(row, &mut self.converted) {
            Ok(()) if to == Layout::Rgba => plain(&self.converted, Channels::Rgba, rgb),
            Ok(()) => rgb.copy_from_slice(&self.converted),
            Err(_) => plain(row, self.channels, rgb),
        }
    }
}

/// Gray as RGB, with the alpha that it has.
fn widen(row: &[u8], channels: Channels, wide: &mut Vec<u8>) {
    wide.clear();
    match channels {
        Channels::Rgba => {
            wide.extend(row.chunks_exact(2).flat_map(|one| [one[0], one[0], one[0], one[1]]));
        }
        _ => wide.extend(row.iter().flat_map(|&value| [value; 3])),
    }
}

/// A row without a profile. What is transparent lies on white: the colours that files hide below full transparency are arbitrary.
fn plain(row: &[u8], channels: Channels, rgb: &mut [u8]) {
    let on_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u16::from(value), u16::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    let pixels = rgb.chunks_exact_mut(3);
    match channels {
        Channels::Gray => {
            for (rgb, &value) in pixels.zip(row) {
                rgb.fill(value);
            }
        }
        Channels::GrayAlpha => {
            for (rgb, one) in pixels.zip(row.chunks_exact(2)) {
                rgb.fill(on_white(one[0], one[1]));
            }
        }
        Channels::Rgb => rgb.copy_from_slice(row),
        Channels::Rgba => {
            for (rgb, one) in pixels.zip(row.chunks_exact(4)) {
                for (to, &value) in rgb.iter_mut().zip(one) {
                    *to = on_white(value, one[3]);
                }
            }
        }
        Channels::Cmyk => {
            for (rgb, one) in pixels.zip(row.chunks_exact(4)) {
                for (to, &ink) in rgb.iter_mut().zip(one) {
                    *to = (u16::from(255 - ink) * u16::from(255 - one[3]) / 255) as u8;
                }
            }
        }
    }
}

/// What a transform takes, and what it gives.
fn layouts(channels: Channels) -> (Layout, Layout) {
    let to = match channels {
        Channels::GrayAlpha | Channels::Rgba => Layout::Rgba,
        Channels::Gray | Channels::Rgb | Channels::Cmyk => Layout::Rgb,
    };
    (channels.layout(), to)
}

fn transform(profile: &ColorProfile, channels: Channels) -> Option<Transform> {
    let options = TransformOptions {
        rendering_intent: RenderingIntent::RelativeColorimetric,
        ..TransformOptions::default()
    };
    let (from, to) = layouts(channels);
    profile.create_transform_8bit(from, &ColorProfile::new_srgb(), to, options).ok()
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
    let mut converted = vec![0; colors.len()];
    transform(profile, Channels::Rgb)
        .is_some_and(|transform| transform.transform(&colors, &mut converted).is_ok())
        && converted.iter().zip(&colors).all(|(one, other)| one.abs_diff(*other) <= SRGB_TOLERANCE)
}

/// A profile that is not that of sRGB.
pub(super) fn unless_srgb(profile: ColorProfile) -> Option<ColorProfile> {
    Some(profile).filter(|profile| !is_srgb(profile))
}
