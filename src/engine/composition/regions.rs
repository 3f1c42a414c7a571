//! Where a layout has its things, from its attention to their nouns.

use crate::domain::composition::place::PixelBox;

/// A cell belongs to a thing if it attends to its noun at least this much, from 0 for the least to 1 for the most.
const THRESHOLD: f32 = 0.25;

/// The shortest side of a region, as a share of the picture's shorter side.
const SHORTEST: f64 = 0.3;

/// A box around each thing.
///
/// Each map is scaled to 0 … 1. A thing's cells are those that attend to its noun by at least 0.25 and no less than to
/// any other noun; its box is around the largest connected part of them, grown by the margin on each side. Where two boxes
/// would overlap, they are cut halfway between the things.
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
        bounds(&largest_part(&own, cells), cells, picture)
    };
    let things: Vec<Bounds> = (0..maps.len()).map(find).collect();
    let mut grown: Vec<Bounds> = things.iter().map(|thing| thing.grown(margin, picture)).collect();
    for one in 0..things.len() {
        for other in one + 1..things.len() {
            let (mut a, mut b) = (grown[one], grown[other]);
            cut((&things[one], &mut a), (&things[other], &mut b));
            (grown[one], grown[other]) = (a, b);
        }
    }
    grown.iter().map(|bounds| bounds.in_pixels(picture)).collect()
}

/// A box in pixels, with fractions of them.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Left and top.
    from: [f64; 2],
    /// Right and bottom.
    to: [f64; 2],
}

impl Bounds {
    fn grown(&self, margin: f64, (width, height): (u32, u32)) -> Self {
        let ends = [f64::from(width), f64::from(height)];
        let shortest = ends[0].min(ends[1]) * SHORTEST;
        let longer = (0..2).map(|axis| self.to[axis] - self.from[axis]).fold(0.0, f64::max);
        let mut grown = *self;
        for (axis, end) in ends.into_iter().enumerate() {
            let extent = self.to[axis] - self.from[axis];
            let by = (margin * longer).max((shortest - extent) / 2.0);
            grown.from[axis] = (self.from[axis] - by).max(0.0);
            grown.to[axis] = (self.to[axis] + by).min(end);
        }
        grown
    }

    fn in_pixels(&self, (width, height): (u32, u32)) -> PixelBox {
        let pixel = |at: f64, end: u32| (at.round() as u32).min(end);
        let [left, top] = self.from;
        let [right, bottom] = self.to;
        let (left, top) = (pixel(left, width - 1), pixel(top, height - 1));
        PixelBox {
            left,
            top,
            right: pixel(right, width).max(left + 1),
            bottom: pixel(bottom, height).max(top + 1),
        }
    }
}

/// Cuts two boxes that overlap, along the axis on which the things are furthest apart, halfway between the things. Things of which
/// one is mostly in the other stay so: the later one will cover the earlier.
fn cut((thing, one): (&Bounds, &mut Bounds), (other_thing, other): (&Bounds, &mut Bounds)) {
    let overlaps = |axis: usize| one.from[axis] < other.to[axis] && other.from[axis] < one.to[axis];
    if !overlaps(0) || !overlaps(1) {
        return;
    }
    // How far apart they are on an axis, below 0 for an overlap, and whether `thing` is the first.
    let gap = |axis: usize| {
        let middle = |bounds: &Bounds| bounds.from[axis] + bounds.to[axis];
        match middle(thing) <= middle(other_thing) {
            true => (other_thing.from[axis] - thing.to[axis], true),
            false => (thing.from[axis] - other_thing.to[axis], false),
        }
    };
    let axis = if gap(0).0 >= gap(1).0 { 0 } else { 1 };
    let extent = |bounds: &Bounds| bounds.to[axis] - bounds.from[axis];
    if gap(axis).0 < -extent(thing).min(extent(other_thing)) / 2.0 {
        return;
    }
    if gap(axis).1 {
        let middle = (thing.to[axis] + other_thing.from[axis]) / 2.0;
        (one.to[axis], other.from[axis]) = (middle, middle);
    } else {
        let middle = (other_thing.to[axis] + thing.from[axis]) / 2.0;
        (other.to[axis], one.from[axis]) = (middle, middle);
    }
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

/// The box around some cells.
fn bounds(part: &[usize], (rows, columns): (usize, usize), (width, height): (u32, u32)) -> Bounds {
    let (top, left, bottom, right) =
        part.iter().fold((rows, columns, 0, 0), |(top, left, bottom, right), cell| {
            let (row, column) = (cell / columns, cell % columns);
            (top.min(row), left.min(column), bottom.max(row + 1), right.max(column + 1))
        });
    let (across, down) = (f64::from(width) / columns as f64, f64::from(height) / rows as f64);
    Bounds {
        from: [left as f64 * across, top as f64 * down],
        to: [right as f64 * across, bottom as f64 * down],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 8 × 8 cells of 10 pixels; 1 inside each box `(left, top, right, bottom)`, 0.1 outside.
    fn map(boxes: &[(usize, usize, usize, usize)]) -> Vec<f32> {
        let inside = |cell: usize| {
            let (row, column) = (cell / 8, cell % 8);
            boxes.iter().any(|(left, top, right, bottom)| {
                (*left..*right).contains(&column) && (*top..*bottom).contains(&row)
            })
        };
        (0..64).map(|cell| if inside(cell) { 1.0 } else { 0.1 }).collect()
    }

    fn found(maps: &[Vec<f32>], margin: f64) -> Vec<(u32, u32, u32, u32)> {
        let boxes = find_boxes(maps, (8, 8), margin, (80, 80));
        boxes.iter().map(|one| (one.left, one.top, one.right, one.bottom)).collect()
    }

    #[test]
    fn a_box_is_around_the_largest_part_with_its_margin() {
        let thing = map(&[(1, 2, 5, 6), (7, 0, 8, 1)]);

        assert_eq!(found(&[thing], 0.1), [(6, 16, 54, 64)]);
    }

    #[test]
    fn boxes_that_would_overlap_are_cut_between_the_things() {
        let (left, right) = (map(&[(0, 2, 3, 6)]), map(&[(4, 3, 8, 7)]));

        assert_eq!(found(&[left.clone(), right.clone()], 0.2), [(0, 12, 35, 68), (35, 22, 80, 78)]);
        assert_eq!(found(&[right, left], 0.2), [(35, 22, 80, 78), (0, 12, 35, 68)]);
    }

    #[test]
    fn a_thing_without_cells_of_its_own_is_where_its_noun_is_attended_to_most() {
        let large = map(&[(0, 0, 8, 7)]);
        let mut lost = vec![0.0; 64];
        lost[27] = 0.001;
        let mut other = large.clone();
        other[27] = 2.0; // more than anything else

        let boxes = found(&[other, lost], 0.0);

        assert_eq!(boxes[1], (23, 23, 47, 47));
    }
}
