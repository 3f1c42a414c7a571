//! The parts of an image of several things: one for each thing to have to itself.

use std::ops::RangeInclusive;

/// The number of things whose image is scored by parts.
pub const THINGS: RangeInclusive<usize> = 2..=4;

/// A square of an image, in pixels from its top left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub x: u32,
    pub y: u32,
    pub side: u32,
}

/// The parts of an image of that many things; none outside [`THINGS`].
///
/// Two things have the middle of the left and of the right half, as squares of half the width. Three stand in a row, as
/// squares of three eighths of it: half of it shows so much of the neighbours that three things side by side score 0.64 where
/// each alone scores 0.85; three eighths score 0.82 (ADR 0029). Four have the quadrants.
///
/// - `depth`: whether two things may as well stand one behind the other, which images show as one above the other: then the
///   upper and the lower half follow, as a second way to share the image
pub fn parts(width: u32, height: u32, things: usize, depth: bool) -> Vec<Part> {
    match things {
        2 if depth => {
            let turned = row(height, height / 2, 2, 0, width);
            let turned = turned.into_iter().map(|part| Part { x: part.y, y: part.x, ..part });
            parts(width, height, 2, false).into_iter().chain(turned).collect()
        }
        2 => row(width, width / 2, 2, 0, height),
        3 => row(width, width * 3 / 8, 3, 0, height),
        4 => {
            let half = height / 2;
            let of = |top, band| row(width, width / 2, 2, top, band);
            [of(0, half), of(half, height - half)].concat()
        }
        _ => Vec::new(),
    }
}

/// Squares side by side, their centres spread evenly, in the middle of a band.
///
/// - `side`: of a square, where the band is high enough
/// - `top`, `band`: where the band begins, and its height
fn row(width: u32, side: u32, count: u32, top: u32, band: u32) -> Vec<Part> {
    let side = side.min(band).max(1);
    let y = top + band.saturating_sub(side) / 2;
    let of = |place: u32| {
        let centre = (2 * place + 1) * width / (2 * count);
        Part { x: centre.saturating_sub(side / 2).min(width.saturating_sub(side)), y, side }
    };
    (0..count).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(width: u32, height: u32, things: usize) -> Vec<(u32, u32, u32)> {
        let parts = parts(width, height, things, false).into_iter();
        parts.map(|part| (part.x, part.y, part.side)).collect()
    }

    #[test]
    fn two_things_have_the_middle_of_a_half_each() {
        assert_eq!(of(64, 64, 2), [(0, 16, 32), (32, 16, 32)]);
        assert_eq!(of(512, 512, 2), [(0, 128, 256), (256, 128, 256)]);
        assert_eq!(of(192, 64, 2), [(16, 0, 64), (112, 0, 64)]);
        assert_eq!(of(64, 128, 2), [(0, 48, 32), (32, 48, 32)]);
    }

    #[test]
    fn three_stand_in_a_row_and_four_in_the_quadrants() {
        assert_eq!(of(64, 64, 3), [(0, 20, 24), (20, 20, 24), (40, 20, 24)]);
        assert_eq!(of(192, 64, 3), [(0, 0, 64), (64, 0, 64), (128, 0, 64)]);
        assert_eq!(of(64, 64, 4), [(0, 0, 32), (32, 0, 32), (0, 32, 32), (32, 32, 32)]);
        assert!(of(64, 64, 1).is_empty() && of(64, 64, 5).is_empty());
    }

    #[test]
    fn of_two_things_one_behind_the_other_one_may_be_above() {
        let four = parts(64, 96, 2, true);

        assert_eq!(four[..2], parts(64, 96, 2, false));
        assert_eq!(four[2..], [Part { x: 8, y: 0, side: 48 }, Part { x: 8, y: 48, side: 48 }]);
    }

    #[test]
    fn a_part_is_always_inside_the_image() {
        for (width, height) in [(2, 2), (8, 200), (201, 9), (65, 63)] {
            for part in THINGS.flat_map(|things| parts(width, height, things, true)) {
                assert!(part.side > 0, "{part:?}");
                assert!(part.x + part.side <= width && part.y + part.side <= height, "{part:?}");
            }
        }
    }
}
