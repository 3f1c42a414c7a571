//! A box in a picture.

use serde::{Deserialize, Serialize};

use crate::domain::number::decimal;

/// A box as fractions of a picture's width and height: `[left, top, right, bottom]`, from the upper left corner.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f64; 4]", into = "[f64; 4]")]
pub struct Place {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

/// The shortest side of a box.
pub const MIN_SIDE: f64 = 0.05;

/// Numbers that are not a box.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a box: write [left, top, right, bottom] as fractions from 0 to 1, with right − left and bottom − top at least 0.05"
)]
pub struct InvalidPlace(pub [f64; 4]);

impl TryFrom<[f64; 4]> for Place {
    type Error = InvalidPlace;

    /// Rounds to six decimals.
    fn try_from(given: [f64; 4]) -> Result<Self, InvalidPlace> {
        let [left, top, right, bottom] = given.map(decimal);
        let is_inside = given.iter().all(|side| (0.0..=1.0).contains(side));
        let is_large = right - left >= MIN_SIDE - 1e-9 && bottom - top >= MIN_SIDE - 1e-9;
        match is_inside && is_large {
            true => Ok(Self { left, top, right, bottom }),
            false => Err(InvalidPlace(given)),
        }
    }
}

impl From<Place> for [f64; 4] {
    fn from(place: Place) -> Self {
        [place.left, place.top, place.right, place.bottom]
    }
}

/// A box in pixels: from `left` and `top` up to, and without, `right` and `bottom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBox {
    pub left: u32,
    pub top: u32,
    pub right: u32,
    pub bottom: u32,
}

impl PixelBox {
    pub fn width(self) -> u32 {
        self.right - self.left
    }

    pub fn height(self) -> u32 {
        self.bottom - self.top
    }
}

impl Place {
    /// The box around these pixels of an image of this size.
    pub fn of_pixels(pixels: PixelBox, (width, height): (u32, u32)) -> Self {
        let share = |pixel: u32, side: u32| decimal(f64::from(pixel) / f64::from(side));
        Self {
            left: share(pixels.left, width),
            top: share(pixels.top, height),
            right: share(pixels.right, width),
            bottom: share(pixels.bottom, height),
        }
    }

    /// The pixels nearest to the box in an image of this size: at least one each way.
    pub fn pixels(&self, (width, height): (u32, u32)) -> PixelBox {
        let nearest = |share: f64, side: u32| (share * f64::from(side)).round() as u32;
        let (left, top) = (nearest(self.left, width), nearest(self.top, height));
        PixelBox {
            left: left.min(width - 1),
            top: top.min(height - 1),
            right: nearest(self.right, width).clamp(left.min(width - 1) + 1, width),
            bottom: nearest(self.bottom, height).clamp(top.min(height - 1) + 1, height),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_lies_inside_and_has_an_extent() {
        assert!(Place::try_from([0.0, 0.0, 1.0, 1.0]).is_ok());
        assert!(Place::try_from([0.5, 0.2, 0.55, 0.9]).is_ok());
        for wrong in [
            [0.5, 0.0, 0.4, 1.0],
            [0.0, 0.0, 1.1, 1.0],
            [0.0, 0.0, 0.01, 1.0],
            [f64::NAN, 0.0, 1.0, 1.0],
            [-0.1, 0.0, 1.0, 1.0],
        ] {
            assert!(Place::try_from(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn pixels_of_a_box_survive_its_fractions() {
        for size in [(64, 64), (513, 96), (7, 1000)] {
            let pixels = PixelBox { left: 3, top: 11, right: 6, bottom: 59 };
            assert_eq!(Place::of_pixels(pixels, size).pixels(size), pixels, "{size:?}");
        }
    }
}
