//! The part of a picture that is generated again around a region.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

use crate::domain::composition::place::PixelBox;

/// How wide the soft edge of a region is, as a share of the picture's shorter side.
const EDGE: f64 = 3.0 / 64.0;

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
    /// It is no larger than the region needs: what is generated fills its crop, and would be cut off by a region that is
    /// smaller.
    ///
    /// - `native_size`: the longer side at which it is generated
    /// - `multiple`: what the sides at which it is generated are multiples of
    pub fn around(
        region: PixelBox,
        (width, height): (u32, u32),
        native_size: usize,
        multiple: usize,
    ) -> Self {
        let side = region.width().max(region.height());
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

    /// Puts what was generated back into the picture, where it differs from the layout. So the scene of the layout runs up to
    /// the thing, and no edge of the region shows. Outside the region, the picture keeps its bytes.
    ///
    /// - `generated`: the crop at any size
    /// - `layout`: what the crop was taken from
    pub fn paste(&self, generated: &RgbImage, layout: &RgbImage, picture: &mut RgbImage) {
        let size = picture.dimensions();
        let (width, height) = (self.part.width(), self.part.height());
        let generated = imageops::resize(generated, width, height, FilterType::Lanczos3);
        let changed = changed(&generated, &self.of(layout), radius(size));
        let edge = EDGE * f64::from(size.0.min(size.1));
        for (x, y, new) in generated.enumerate_pixels() {
            let at = [self.part.left + x, self.part.top + y];
            let inside = (depth(at, self.region, size) / edge).clamp(0.0, 1.0);
            let share = inside * changed[(y * width + x) as usize];
            let old = picture.get_pixel_mut(at[0], at[1]);
            for (old, new) in old.0.iter_mut().zip(new.0) {
                let mixed = f64::from(*old) + share * (f64::from(new) - f64::from(*old));
                *old = mixed.round() as u8;
            }
        }
    }
}

/// Differences of a channel, of 255, at which a pixel begins to count as changed, and from which on it is.
const CHANGED: [f64; 2] = [12.0, 32.0];

/// How far a changed pixel reaches, in pixels: one in a picture of 64.
fn radius((width, height): (u32, u32)) -> u32 {
    (width.min(height) / 64).max(1)
}

/// How much each pixel of two images differs, from 0 to 1: spread over the neighbors, then smoothed.
fn changed(one: &RgbImage, other: &RgbImage, radius: u32) -> Vec<f64> {
    let [least, most] = CHANGED;
    let differences = one.pixels().zip(other.pixels()).map(|(one, other)| {
        let channels = one.0.iter().zip(other.0).map(|(a, b)| f64::from(a.abs_diff(b)));
        ((channels.fold(0.0, f64::max) - least) / (most - least)).clamp(0.0, 1.0)
    });
    let spread = filtered(&differences.collect::<Vec<_>>(), one.dimensions(), radius, |window| {
        window.fold(0.0, f64::max)
    });
    let count = f64::from(2 * radius + 1);
    filtered(&spread, one.dimensions(), radius, |window| window.sum::<f64>() / count)
}

/// Applies a filter to windows of `2 · radius + 1` values, row by row and then column by column. Values at the border count for
/// those beyond it.
fn filtered(
    values: &[f64],
    (width, height): (u32, u32),
    radius: u32,
    filter: impl Fn(&mut dyn Iterator<Item = f64>) -> f64,
) -> Vec<f64> {
    let (width, height, radius) = (width as usize, height as usize, radius as usize);
    let window = |at: usize, end: usize| {
        (at..=at + 2 * radius).map(move |at| at.saturating_sub(radius).min(end - 1))
    };
    let mut rows = Vec::with_capacity(values.len());
    for y in 0..height {
        for x in 0..width {
            rows.push(filter(&mut window(x, width).map(|x| values[y * width + x])));
        }
    }
    let mut columns = Vec::with_capacity(values.len());
    for y in 0..height {
        for x in 0..width {
            columns.push(filter(&mut window(y, height).map(|y| rows[y * width + x])));
        }
    }
    columns
}

/// How far the middle of a pixel lies inside a box, in pixels; below 0 outside. Sides on the border of the picture do not
/// count.
fn depth([x, y]: [u32; 2], inside: PixelBox, (width, height): (u32, u32)) -> f64 {
    let along = |at: u32, from: u32, to: u32, end: u32| {
        let before = match from {
            0 => f64::INFINITY,
            from => f64::from(at) + 0.5 - f64::from(from),
        };
        let behind = match to == end {
            true => f64::INFINITY,
            false => f64::from(to) - f64::from(at) - 0.5,
        };
        before.min(behind)
    };
    along(x, inside.left, inside.right, width).min(along(y, inside.top, inside.bottom, height))
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
        for (crop, part, size) in [
            (crop(20, 10, 40, 30), (20, 10, 40, 30), (64, 64)),
            (crop(20, 10, 30, 30), (15, 10, 35, 30), (64, 64)),
            (crop(0, 20, 6, 40), (0, 20, 20, 40), (64, 64)),
            (crop(50, 44, 64, 48), (50, 34, 64, 48), (64, 64)),
            (crop(0, 10, 64, 20), (0, 0, 64, 48), (64, 48)),
        ] {
            let PixelBox { left, top, right, bottom } = crop.part;
            assert_eq!((left, top, right, bottom), part);
            assert_eq!((crop.width, crop.height), size);
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

    /// A picture with a ramp, and a crop of it with a red square of 8 pixels in its middle.
    fn scene(crop: &Crop) -> (RgbImage, RgbImage) {
        let picture = RgbImage::from_fn(PICTURE.0, PICTURE.1, |x, y| Rgb([x as u8, y as u8, 77]));
        let mut generated = crop.of(&picture);
        let (width, height) = generated.dimensions();
        for (x, y, pixel) in generated.enumerate_pixels_mut() {
            pixel.0[1] += 5; // another light
            if x.abs_diff(width / 2) < 4 && y.abs_diff(height / 2) < 4 {
                *pixel = Rgb([255, 0, 0]);
            }
        }
        (picture, generated)
    }

    #[test]
    fn a_thing_comes_into_the_picture_and_the_scene_stays_the_layouts() {
        let crop = crop(10, 4, 34, 28);
        let (layout, generated) = scene(&crop);
        let mut picture = layout.clone();

        crop.paste(&generated, &layout, &mut picture);

        assert_eq!(picture.get_pixel(22, 16).0, [255, 0, 0]);
        for (x, y, pixel) in picture.enumerate_pixels() {
            if x.abs_diff(22) > 6 || y.abs_diff(16) > 6 {
                assert_eq!(pixel, layout.get_pixel(x, y), "{x} {y}");
            }
        }
    }

    #[test]
    fn outside_its_region_a_picture_keeps_its_bytes() {
        let crop = crop(18, 4, 34, 28);
        let (layout, _) = scene(&crop);
        let mut picture = layout.clone();

        crop.paste(&RgbImage::from_pixel(64, 64, Rgb([255; 3])), &layout, &mut picture);

        for (x, y, pixel) in picture.enumerate_pixels() {
            let is_inside = (18..34).contains(&x) && (4..28).contains(&y);
            assert!(is_inside || pixel == layout.get_pixel(x, y), "{x} {y}");
        }
        assert_eq!(picture.get_pixel(26, 16).0, [255; 3]);
    }
}
