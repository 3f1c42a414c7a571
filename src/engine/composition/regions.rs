//! Where a layout has its things, from its attention to their nouns.

use crate::domain::composition::place::PixelBox;

/// A cell belongs to a thing if it attends to its noun at least this much, from 0 for the least to 1 for the most.
const THRESHOLD: f32 = 0.35;

/// The shortest side of a region, as a share of the picture's shorter side.
const SHORTEST: f64 = 0.375;

/// A box around each thing.
///
/// Each map is scaled to 0 … 1. A thing's cells are those that attend to its noun by at least [`THRESHOLD`] and no less than to
/// any other noun; its box is around the largest connected part of them, grown by the margin on each side to a square.
///
/// - `maps`: how much each cell attends to each noun
/// - `cells`: `(height, width)` of the maps
/// - `margin`: as a share of the box's longer side
/// - `picture`: `(width, height)` in pixels
pub fn find_boxes(
    maps: &[Vec<f32>],
    cells: (usize, usize),
    margin: f64,
    picture: (u32, u32),
) -> Vec<PixelBox> {
    let scaled: Vec<Vec<f32>> = maps.iter().map(|map| to_unit(map)).collect();
    let find = |index: usize| {
        let map = &scaled[index];
        let is_own = |cell: usize| {
            map[cell] >= THRESHOLD && scaled.iter().all(|other| map[cell] >= other[cell])
        };
        let mut own: Vec<bool> = (0..map.len()).map(is_own).collect();
        if !own.contains(&true) {
            own = map.iter().map(|value| *value >= 1.0).collect();
        }
        grown(bounds(&largest_part(&own, cells), cells), cells, margin, picture)
    };
    (0..maps.len()).map(find).collect()
}

/// The map scaled to 0 … 1.
fn to_unit(map: &[f32]) -> Vec<f32> {
    let (least, most) =
        map.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), value| {
            (least.min(*value), most.max(*value))
        });
    let extent = (most - least).max(f32::MIN_POSITIVE);
    map.iter().map(|value| (value - least) / extent).collect()
}

/// The largest part of the cells that hangs together, over edges and corners.
fn largest_part(cells: &[bool], (height, width): (usize, usize)) -> Vec<usize> {
    let mut seen = vec![false; cells.len()];
    let mut largest = Vec::new();
    for start in 0..cells.len() {
        if !cells[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        let (mut part, mut next) = (Vec::new(), vec![start]);
        while let Some(cell) = next.pop() {
            part.push(cell);
            let (row, column) = (cell / width, cell % width);
            for row in row.saturating_sub(1)..=(row + 1).min(height - 1) {
                for column in column.saturating_sub(1)..=(column + 1).min(width - 1) {
                    let neighbor = row * width + column;
                    if cells[neighbor] && !std::mem::replace(&mut seen[neighbor], true) {
                        next.push(neighbor);
                    }
                }
            }
        }
        if part.len() > largest.len() {
            largest = part;
        }
    }
    largest
}

/// The first and the last row and column of some cells, the last excluded: `(top, left, bottom, right)`.
fn bounds(part: &[usize], (height, width): (usize, usize)) -> (usize, usize, usize, usize) {
    part.iter().fold((height, width, 0, 0), |(top, left, bottom, right), cell| {
        let (row, column) = (cell / width, cell % width);
        (top.min(row), left.min(column), bottom.max(row + 1), right.max(column + 1))
    })
}

/// The square around these cells, grown by the margin and moved inside the picture.
fn grown(
    (top, left, bottom, right): (usize, usize, usize, usize),
    (rows, columns): (usize, usize),
    margin: f64,
    (width, height): (u32, u32),
) -> PixelBox {
    let (across, down) = (f64::from(width) / columns as f64, f64::from(height) / rows as f64);
    let (from_x, to_x) = (left as f64 * across, right as f64 * across);
    let (from_y, to_y) = (top as f64 * down, bottom as f64 * down);
    let longer = (to_x - from_x).max(to_y - from_y);
    let shortest = f64::from(width.min(height)) * SHORTEST;
    let side = (longer * (1.0 + 2.0 * margin)).max(shortest);
    let range = |from: f64, to: f64, end: u32| {
        let side = side.round().min(f64::from(end));
        let start = ((from + to - side) / 2.0).round().clamp(0.0, f64::from(end) - side);
        (start as u32, (start + side) as u32)
    };
    let (left, right) = range(from_x, to_x, width);
    let (top, bottom) = range(from_y, to_y, height);
    PixelBox { left, top, right, bottom }
}
