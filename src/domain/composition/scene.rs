//! The scene of a prompt without its things, and places for things in it.

use super::Span;
use super::place::{PixelBox, Place};

/// What keeps the base model from drawing things of its own into a scene.
const EMPTY: &str = "far away, very small";

/// Words that put things side by side, with how much deeper in the picture the second one stands.
const ARRANGEMENTS: [(&str, i32); 8] = [
    (",", 0),
    ("and", 0),
    ("next to", 0),
    ("beside", 0),
    ("near", 0),
    ("with", 0),
    ("in front of", 1),
    ("behind", -1),
];

/// Words that begin a scene.
const SCENE_WORDS: [&str; 8] = ["on", "in", "at", "under", "inside", "outside", "during", "above"];

/// Words by which something else joins the things.
const JOINTS: [&str; 10] = [
    "and",
    "next to",
    "beside",
    "near",
    "with",
    "in front of",
    "behind",
    "on top of",
    "holding",
    "wearing",
];

/// The prompt of the scene alone, if the prompt says no more than what things stand beside, before or behind each other, and where: `photo of a
/// <rex> dog next to a <delft> vase on the grass` has the scene `photo on the grass, far away, very small`.
///
/// - `mentions`: of the concepts, from left to right
/// - `joints`: what joins each mention to the next
pub(super) fn scene_of(prompt: &str, mentions: &[Span], joints: &[&str]) -> Option<String> {
    let (first, last) = (mentions.first()?, mentions.last()?);
    depths(joints)?;
    let scene = prompt[last.end..].trim().trim_end_matches(['.', '!']);
    let lower = scene.to_ascii_lowercase();
    let begins = SCENE_WORDS.iter().any(|word| lower.split_whitespace().next() == Some(*word));
    if !begins || JOINTS.iter().any(|joint| has_words(&lower, joint)) {
        return None;
    }
    let head = prompt[..first.start].trim();
    let kind = head.rfind(" of").map_or("a photo", |end| &head[..end]);
    Some(format!("{kind} {scene}, {EMPTY}"))
}

fn has_words(text: &str, words: &str) -> bool {
    format!(" {text} ").contains(&format!(" {words} "))
}

/// The most of a picture's height that a row of things takes.
const ROWS_HEIGHT: f64 = 0.75;

/// How deep in the picture each thing stands; `None` if a joint says something else.
pub(super) fn depths(joints: &[&str]) -> Option<Vec<i32>> {
    let mut depths = vec![0];
    for joint in joints {
        let (_, deeper) =
            ARRANGEMENTS.iter().find(|(known, _)| known.eq_ignore_ascii_case(joint))?;
        depths.push(depths[depths.len() - 1] + deeper);
    }
    Some(depths)
}

/// How much lower a thing stands than one behind it, as a share of the picture's height, and how far the two overlap, as a share of
/// their sides.
const LOWER: f64 = 0.12;
const OVERLAP: f64 = 0.06;

/// Squares for things in a picture: one row of up to three, else two rows.
///
/// - `depths`: how deep each thing stands
pub(super) fn places(depths: &[i32], size: (u32, u32)) -> Vec<Place> {
    let count = depths.len();
    let (nearest, deepest) = (depths.iter().min(), depths.iter().max());
    let (nearest, deepest) = (nearest.copied().unwrap_or(0), deepest.copied().unwrap_or(0));
    let is_deep = deepest > nearest;
    let rows = if count <= 3 { 1 } else { 2 };
    let columns = count.div_ceil(rows).max(1);
    let (width, height) = (f64::from(size.0), f64::from(size.1));
    let wider = if is_deep { 1.0 + OVERLAP } else { 1.0 };
    let side = wider * (width / columns as f64).min(height * ROWS_HEIGHT / rows as f64);
    let place = |index: usize| {
        let (row, column) = (index / columns, index % columns);
        let in_row = if row + 1 == rows { count - row * columns } else { columns };
        let x = width * (column as f64 + 0.5) / in_row as f64;
        let lower = f64::from(nearest + deepest - 2 * depths[index]) / 2.0 * LOWER;
        let y = height * ((row as f64 + 0.5) / rows as f64 + lower);
        let range = |center: f64, end: u32| {
            let latest = (f64::from(end) - side).max(0.0);
            let start = (center - side / 2.0).clamp(0.0, latest).round() as u32;
            (start, (start + side.round() as u32).min(end))
        };
        let ((left, right), (top, bottom)) = (range(x, size.0), range(y, size.1));
        Place::of_pixels(PixelBox { left, top, right, bottom }, size)
    };
    (0..count).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squares(count: usize, size: (u32, u32)) -> Vec<(u32, u32, u32, u32)> {
        let pixels = |place: &Place| {
            let at = place.pixels(size);
            (at.left, at.top, at.right, at.bottom)
        };
        places(&[0; 8][..count], size).iter().map(pixels).collect()
    }

    #[test]
    fn a_thing_in_front_stands_lower_and_overlaps() {
        let boxes = |depths: &[i32]| -> Vec<[f64; 4]> {
            places(depths, (100, 100)).into_iter().map(Into::into).collect()
        };

        assert_eq!(boxes(&[0, 1]), [[0.0, 0.3, 0.53, 0.83], [0.47, 0.18, 1.0, 0.71]]);
        assert_eq!(boxes(&[0, -1]), [[0.0, 0.18, 0.53, 0.71], [0.47, 0.3, 1.0, 0.83]]);
        assert_eq!(depths(&["in front of", "and", "behind"]), Some(vec![0, 1, 1, 0]));
        assert_eq!(depths(&["on top of"]), None);
    }

    #[test]
    fn things_stand_in_squares_side_by_side() {
        assert_eq!(squares(1, (64, 64)), [(8, 8, 56, 56)]);
        assert_eq!(squares(2, (64, 64)), [(0, 16, 32, 48), (32, 16, 64, 48)]);
        assert_eq!(squares(3, (96, 64)), [(0, 16, 32, 48), (32, 16, 64, 48), (64, 16, 96, 48)]);
        assert_eq!(squares(2, (128, 64)), [(8, 8, 56, 56), (72, 8, 120, 56)]);
        assert_eq!(squares(5, (64, 64))[3..], [(5, 37, 26, 58), (37, 37, 58, 58)]);
    }
}
