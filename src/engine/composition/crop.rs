//! The part of a picture that is generated again around a region.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use crate::domain::composition::place::PixelBox;

/// How much wider than its region a crop is: the surroundings on each side, as a share of the region's longer side. They
/// are held while the region is generated, so that it grows out of them.
const SURROUNDINGS: f64 = 0.0;

/// How wide the soft edge of a region is, as a share of its shorter side.
const EDGE: f64 = 0.12;

/// A part of a picture, with the region in it that changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crop {
    /// What changes, in pixels of the picture.
    region: PixelBox,
    /// The region with its surroundings.
    part: PixelBox,
    /// The size at which it is generated.
    pub width: usize,
    pub height: usize,
}

impl Crop {
    /// The crop around a region: a square if the picture has room for one.
    ///
    /// - `native_size`: the longer side at which it is generated
    /// - `multiple`: what the sides at which it is generated are multiples of
    pub fn around(
        region: PixelBox,
        (width, height): (u32, u32),
        native_size: usize,
        multiple: usize,
    ) -> Self {
        let longer = region.width().max(region.height());
        let side = longer + 2 * (f64::from(longer) * SURROUNDINGS).round() as u32;
        let (left, right) = widened(region.left, region.right, side, width);
        let (top, bottom) = widened(region.top, region.bottom, side, height);
        let part = PixelBox { left, top, right, bottom };
        let scale = native_size as f64 / f64::from(part.width().max(part.height()));
        let cells = |pixels: u32| (f64::from(pixels) * scale / multiple as f64).round() as usize;
        let size = |pixels: u32| cells(pixels).max(1) * multiple;
        Self { region, part, width: size(part.width()), height: size(part.height()) }
    }

    /// The crop of a picture.
    pub fn of(&self, picture: &RgbImage) -> RgbImage {
        let PixelBox { left, top, .. } = self.part;
        imageops::crop_imm(picture, left, top, self.part.width(), self.part.height()).to_image()
    }

    /// How much of each latent cell is generated: 1 inside the region, 0 outside, in between for cells at its edge.
    ///
    /// - `factor`: pixels of a latent cell
    pub fn mask(&self, factor: usize) -> Vec<f32> {
        let (columns, rows) = (self.width / factor, self.height / factor);
        let across =
            covered(self.region.left, self.region.right, self.part.left, self.part.right, columns);
        let down =
            covered(self.region.top, self.region.bottom, self.part.top, self.part.bottom, rows);
        down.iter().flat_map(|down| across.iter().map(move |across| across * down)).collect()
    }

    /// Puts the region back into the picture with a soft edge. Outside the region, the picture keeps its bytes.
    ///
    /// - `generated`: the crop at any size
    pub fn paste(&self, generated: &RgbImage, picture: &mut RgbImage) {
        let (width, height) = (self.part.width(), self.part.height());
        let generated = imageops::resize(generated, width, height, FilterType::Lanczos3);
        let edge = f64::from(self.region.width().min(self.region.height())) * EDGE;
        // No edge where the picture ends.
        let distance = |at: u32, from: u32, to: u32, end: u32| -> f64 {
            let before = if from == 0 { f64::INFINITY } else { f64::from(at - from) + 0.5 };
            let behind = if to == end { f64::INFINITY } else { f64::from(to - at) - 0.5 };
            before.min(behind)
        };
        let (picture_width, picture_height) = picture.dimensions();
        for y in self.region.top..self.region.bottom {
            let down = distance(y, self.region.top, self.region.bottom, picture_height);
            for x in self.region.left..self.region.right {
                let across = distance(x, self.region.left, self.region.right, picture_width);
                let share = (across.min(down) / edge).clamp(0.0, 1.0);
                let new = generated.get_pixel(x - self.part.left, y - self.part.top);
                let old = picture.get_pixel_mut(x, y);
                for (old, new) in old.0.iter_mut().zip(new.0) {
                    let mixed = f64::from(*old) + share * (f64::from(new) - f64::from(*old));
                    *old = mixed.round() as u8;
                }
            }
        }
    }
}

/// Draws a line around a region.
pub fn outline(picture: &mut RgbImage, region: PixelBox) {
    const COLOR: Rgb<u8> = Rgb([255, 0, 200]);
    for x in region.left..region.right {
        picture.put_pixel(x, region.top, COLOR);
        picture.put_pixel(x, region.bottom - 1, COLOR);
    }
    for y in region.top..region.bottom {
        picture.put_pixel(region.left, y, COLOR);
        picture.put_pixel(region.right - 1, y, COLOR);
    }
}

/// A range widened to `side` around its middle, moved inside `0..end`, and as long as that allows.
fn widened(from: u32, to: u32, side: u32, end: u32) -> (u32, u32) {
    let side = side.max(to - from).min(end);
    let wanted = (from + to).saturating_sub(side) / 2;
    let start = wanted.min(end - side).min(from).max(to.saturating_sub(side));
    (start, start + side)
}

/// How much of each of `count` cells, which divide `start..end` evenly, lies inside `from..to`.
fn covered(from: u32, to: u32, start: u32, end: u32, count: usize) -> Vec<f32> {
    let cell = f64::from(end - start) / count as f64;
    let covered = |index: usize| {
        let (left, right) = (index as f64 * cell, (index + 1) as f64 * cell);
        let inside = right.min(f64::from(to - start)) - left.max(f64::from(from - start));
        (inside / cell).clamp(0.0, 1.0) as f32
    };
    (0..count).map(covered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICTURE: (u32, u32) = (64, 48);

    fn crop(left: u32, top: u32, right: u32, bottom: u32) -> Crop {
        Crop::around(PixelBox { left, top, right, bottom }, PICTURE, 64, 8)
    }

    #[test]
    fn a_crop_is_a_square_around_its_region_inside_the_picture() {
        for (region, part, size) in [
            (crop(20, 10, 40, 30), (17, 7, 43, 33), (64, 64)),
            (crop(0, 0, 20, 20), (0, 0, 26, 26), (64, 64)),
            (crop(50, 40, 64, 48), (46, 30, 64, 48), (64, 64)),
            (crop(0, 0, 64, 48), (0, 0, 64, 48), (64, 48)),
        ] {
            let PixelBox { left, top, right, bottom } = region.part;
            assert_eq!((left, top, right, bottom), part);
            assert_eq!((region.width, region.height), size);
        }
    }

    #[test]
    fn a_mask_covers_the_region_and_parts_of_cells_at_its_edge() {
        let crop = Crop {
            region: PixelBox { left: 2, top: 0, right: 7, bottom: 8 },
            part: PixelBox { left: 0, top: 0, right: 8, bottom: 8 },
            width: 32,
            height: 16,
        };

        let mask = crop.mask(8); // two rows of four cells, two pixels wide each

        assert_eq!(mask, [0.0, 1.0, 1.0, 0.5, 0.0, 1.0, 1.0, 0.5]);
    }

    #[test]
    fn outside_its_region_a_picture_keeps_its_bytes() {
        let mut picture = RgbImage::from_fn(64, 48, |x, y| Rgb([x as u8, y as u8, 77]));
        let before = picture.clone();
        let crop = crop(10, 0, 30, 20);

        crop.paste(&RgbImage::from_pixel(64, 64, Rgb([255; 3])), &mut picture);

        for (x, y, pixel) in picture.enumerate_pixels() {
            if (10..30).contains(&x) && y < 20 {
                continue;
            }
            assert_eq!(pixel, before.get_pixel(x, y), "{x} {y}");
        }
        assert_eq!(picture.get_pixel(20, 0).0, [255; 3], "no edge where the picture ends");
        assert!(picture.get_pixel(10, 5).0[0] < 80, "a soft one elsewhere");
    }
}
