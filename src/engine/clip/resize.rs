//! Resizing as Pillow does it, to the byte.
//!
//! Pillow filters along rows, rounds to bytes, then filters along columns. When an image is made smaller, the filter is as
//! many times wider as the image gets smaller, so that nothing aliases. Weights are computed in f64 and used in fixed
//! point, with [`PRECISION`] bits after the point. Since version 13 Pillow takes the columns first for some images that
//! lose more height than width, and rounds some of their pixels otherwise; here rows always come first.

use std::ops::Range;

use image::{Rgb, RgbImage};

/// Fractional bits of a weight: 8 bits are the pixel's, and sums reach a little beyond them on both sides.
const PRECISION: u32 = 32 - 8 - 2;

/// How pixels are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    Bilinear,
    /// Keys' cubic with `a = −0.5`.
    Bicubic,
}

impl Filter {
    /// Beyond this distance a pixel has no weight.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, distance: f64) -> f64 {
        const A: f64 = -0.5;
        let x = distance.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            Self::Bilinear | Self::Bicubic => 0.0,
        }
    }
}

/// Part of `image` resized to `width` × `height`: only `columns` and `rows` of the result, which lie inside it.
pub(super) fn resize(
    image: &RgbImage,
    (width, height): (u32, u32),
    columns: Range<u32>,
    rows: Range<u32>,
    filter: Filter,
) -> RgbImage {
    let across = windows(image.width(), width, columns, filter);
    let down = windows(image.height(), height, rows, filter);
    let first = down.iter().map(|window| window.first).min().unwrap_or(0);
    let end = down.iter().map(Window::end).max().unwrap_or(0);
    let narrowed = RgbImage::from_fn(across.len() as u32, end - first, |x, y| {
        across[x as usize].sum(|at| image.get_pixel(at, first + y))
    });
    RgbImage::from_fn(across.len() as u32, down.len() as u32, |x, y| {
        down[y as usize].sum(|at| narrowed.get_pixel(x, at - first))
    })
}

/// The pixels along one side that a resized pixel is made of.
struct Window {
    first: u32,
    weights: Vec<i32>,
}

impl Window {
    fn end(&self) -> u32 {
        self.first + self.weights.len() as u32
    }

    fn sum<'a>(&self, pixel: impl Fn(u32) -> &'a Rgb<u8>) -> Rgb<u8> {
        let mut sums = [1 << (PRECISION - 1); 3]; // a half, so that the shift rounds
        for (at, weight) in (self.first..).zip(&self.weights) {
            let Rgb(values) = pixel(at);
            sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += i32::from(*x) * weight);
        }
        Rgb(sums.map(|sum| (sum >> PRECISION).clamp(0, 255) as u8))
    }
}

/// The windows of the pixels `range`, when a side of `from` pixels is resized to `to`.
fn windows(from: u32, to: u32, range: Range<u32>, filter: Filter) -> Vec<Window> {
    let scale = f64::from(from) / f64::from(to);
    let widening = scale.max(1.0);
    let support = filter.support() * widening;
    let window = |index: u32| {
        let centre = (f64::from(index) + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as u32;
        let end = ((centre + support + 0.5) as u32).min(from);
        let weight = |at: u32| filter.weight((f64::from(at) - centre + 0.5) * (1.0 / widening));
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << PRECISION)).round() as i32;
        Window { first, weights: weights.iter().map(fixed).collect() }
    };
    range.map(window).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any image; that the bytes are Pillow's is shown by the golden cases.
    fn image() -> RgbImage {
        RgbImage::from_fn(23, 31, |x, y| Rgb([(x * 11) as u8, (y * 8) as u8, (x * y % 251) as u8]))
    }

    #[test]
    fn an_image_of_the_right_size_keeps_its_bytes() {
        for filter in [Filter::Bilinear, Filter::Bicubic] {
            assert_eq!(resize(&image(), (23, 31), 0..23, 0..31, filter), image());
        }
    }

    #[test]
    fn a_part_of_the_result_has_the_bytes_of_the_whole() {
        for (width, height) in [(9, 40), (60, 7)] {
            let whole = resize(&image(), (width, height), 0..width, 0..height, Filter::Bicubic);

            let part = resize(&image(), (width, height), 3..8, 2..6, Filter::Bicubic);

            let expected = RgbImage::from_fn(5, 4, |x, y| *whole.get_pixel(x + 3, y + 2));
            assert_eq!(part, expected);
        }
    }

    #[test]
    fn a_plain_image_stays_plain() {
        let plain = RgbImage::from_pixel(50, 20, Rgb([0, 255, 77]));

        let small = resize(&plain, (7, 33), 0..7, 0..33, Filter::Bicubic);

        assert!(small.pixels().all(|pixel| *pixel == Rgb([0, 255, 77])));
    }
}
