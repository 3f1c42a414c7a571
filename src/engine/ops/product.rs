//! The matrix product under convolution, linear layers and attention on the CPU.
//!
//! `C = A B`, whose innermost loop reads `B` in panels of [`PANEL`] columns: packed ones, those that rows hold where
//! they lie, or ones that are made of a transpose a tile at a time. Rows of `A` are read where they lie, be they rows
//! of a matrix or the pixels under a kernel's position. The depth is cut in blocks at fixed places and each element of
//! `C` is summed in one order, whatever the number of rows, columns or threads: a row computed alone has the same bits
//! as among others.

mod frozen;
mod kernel;
mod panels;

use std::ops::Range;

use rayon::prelude::*;

pub(super) use self::frozen::FrozenMatrix;
use self::kernel::{Even, Finish, Kernel, Run, Strip, Tile};
pub(super) use self::kernel::{Fetch, transpose};
pub(super) use self::panels::{PANEL, Panels, View, pack_columns, pack_rows};
use super::cpu::Shared;

/// Depth of a block: a tile of it fits the second-level cache many times.
const DEPTH_BLOCK: usize = 192;
/// Rows and panels that the kernel computes at once.
const ROWS: usize = 8;
const PANELS: usize = 3;
/// Columns of the kernel's tile.
pub(super) const TILE: usize = PANELS * PANEL;
/// Numbers of one factor, or of the product, that the second-level cache holds beside the others.
const HELD: usize = 96 << 10;
/// Products smaller than this are not worth another thread.
const SMALL: usize = 1 << 19;
/// Multiplications that a task should have at least, some twenty microseconds' work.
const TASK: usize = 1 << 21;

/// The right factor of one product.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    Panels(View<'a>),
    /// Row-major rows where they lie, `stride` apart: a multiple of [`PANEL`], so that whole panels can be read.
    Rows {
        data: &'a [f32],
        stride: usize,
        width: usize,
    },
    /// The transpose of row-major rows where they lie, `(width, depth)`: turned a tile at a time, on the way into the
    /// kernel.
    Columns {
        data: &'a [f32],
        depth: usize,
        width: usize,
    },
}

impl Right<'_> {
    pub(super) fn depth(self) -> usize {
        match self {
            Self::Panels(panels) => panels.depth,
            Self::Rows { data, stride, .. } => data.len().div_ceil(stride),
            Self::Columns { depth, .. } => depth,
        }
    }

    pub(super) fn width(self) -> usize {
        match self {
            Self::Panels(panels) => panels.width,
            Self::Rows { width, .. } | Self::Columns { width, .. } => width,
        }
    }

    /// What a tile is made of that begins with `column`, over `length` of the depth from `row` on.
    fn fetch(self, row: usize, column: usize, length: usize) -> Fetch {
        match self {
            Self::Panels(View { data, depth, .. }) => {
                let start = data.as_ptr().wrapping_add(column * depth + row * PANEL);
                Fetch::stream(start, length * TILE, length)
            }
            Self::Rows { data, stride, .. } => {
                Fetch::rows(data.as_ptr().wrapping_add(row * stride + column), stride, length, TILE)
            }
            Self::Columns { data, depth, .. } => {
                Fetch::rows(data.as_ptr().wrapping_add(column * depth + row), depth, TILE, length)
            }
        }
    }

    /// `width` columns from `first` on, a multiple of [`PANEL`].
    pub(super) fn columns(self, first: usize, width: usize) -> Self {
        match self {
            Self::Panels(View { data, depth, .. }) => {
                Self::Panels(View { data: &data[first * depth..], depth, width })
            }
            Self::Rows { data, stride, .. } => Self::Rows { data: &data[first..], stride, width },
            Self::Columns { data, depth, .. } => {
                Self::Columns { data: &data[first * depth..], depth, width }
            }
        }
    }
}

/// The left factor, read where it lies.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// `(rows, depth)`; one of the strides is 1.
    Strided { data: &'a [f32], rows: usize, row_stride: usize, depth_stride: usize },
    /// Each row is joined of parts of the same length: row `r` of part `p` begins at `starts[p · rows + r]`.
    Parts { data: &'a [f32], starts: &'a [Start], rows: usize, length: usize },
}

/// Where a part of a row begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    At(usize),
    /// The part is all zeros.
    Zeros,
}

impl<'a> Left<'a> {
    /// Row-major rows one after the other.
    pub(super) fn rows(data: &'a [f32], depth: usize) -> Self {
        Self::Strided { data, rows: data.len() / depth.max(1), row_stride: depth, depth_stride: 1 }
    }

    fn count(self) -> usize {
        match self {
            Self::Strided { rows, .. } | Self::Parts { rows, .. } => rows,
        }
    }

    /// Rows `first..first + count` of a strided factor.
    fn part(self, first: usize, count: usize) -> Self {
        match self {
            Self::Strided { data, row_stride, depth_stride, .. } => Self::Strided {
                data: &data[first * row_stride..],
                rows: count,
                row_stride,
                depth_stride,
            },
            Self::Parts { .. } => self,
        }
    }
}

/// What is added to the product.
#[derive(Clone, Copy, Default)]
pub(super) struct Add<'a> {
    /// One number per column.
    pub(super) per_column: Option<&'a [f32]>,
    /// A matrix with rows that lie this far apart.
    pub(super) matrix: Option<(&'a [f32], usize)>,
    /// What `C` holds already.
    pub(super) present: bool,
}

/// `C = A B + add`; `C` is row-major with rows `stride` apart.
pub(super) fn multiply(a: Left<'_>, b: Right<'_>, add: Add<'_>, c: &mut [f32], stride: usize) {
    let (rows, width) = (a.count(), b.width());
    assert!(rows == 0 || c.len() >= (rows - 1) * stride + width, "the product does not fit");
    // SAFETY: the assertion bounds every write; `c` is exclusive.
    unsafe { multiply_into(a, b, add, 0..width, c.as_mut_ptr(), stride) }
}

/// [`multiply`] of row-major rows, shared out among the threads.
pub(super) fn multiply_rows(a: &[f32], b: Right<'_>, add: Add<'_>, c: &mut [f32]) {
    multiply_shared(Left::rows(a, b.depth()), b, add, c);
}

/// [`multiply`] of a strided factor, shared out among the threads; the rows of `c` lie one after the other.
pub(super) fn multiply_shared(a: Left<'_>, b: Right<'_>, add: Add<'_>, c: &mut [f32]) {
    let (depth, width) = (b.depth(), b.width());
    let rows = a.count();
    assert!(c.len() >= rows * width, "the product does not fit");
    if rows * depth * width < SMALL {
        return multiply(a, b, add, c, width);
    }
    // Turning costs as much as multiplying some six rows: whoever turns takes as many rows as there are.
    let most = match b {
        Right::Panels(_) | Right::Rows { .. } => 192,
        Right::Columns { .. } => 512,
    };
    let step = (TASK / (rows.min(most) * depth * TILE)).max(1) * TILE;
    let place = Shared::new(c);
    share_out((rows, width), (most, step), |rows, columns| {
        let matrix = add.matrix.map(|(values, stride)| (&values[rows.start * stride..], stride));
        // SAFETY: tasks write to different rows or columns of `c`, all inside it.
        unsafe {
            let c = place.at(rows.start * width);
            let a = a.part(rows.start, rows.len());
            multiply_into(a, b, Add { matrix, ..add }, columns, c, width);
        }
    });
}

/// Cuts a matrix of `rows` and `columns` into enough parts that no thread waits long for the last one: at most `most` rows
/// each, and columns by multiples of `step`.
pub(super) fn share_out(
    (rows, columns): (usize, usize),
    (most, step): (usize, usize),
    task: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    if rows == 0 || columns == 0 {
        return;
    }
    let rows_of_task = rows.div_ceil(rows.div_ceil(most)).next_multiple_of(ROWS);
    let row_tasks = rows.div_ceil(rows_of_task);
    let wanted = (16 * rayon::current_num_threads()).div_ceil(row_tasks);
    let columns_of_task = columns.div_ceil(wanted).next_multiple_of(step);
    let column_tasks = columns.div_ceil(columns_of_task);
    (0..row_tasks * column_tasks).into_par_iter().for_each(|index| {
        let row = index / column_tasks * rows_of_task;
        let column = index % column_tasks * columns_of_task;
        task(row..rows.min(row + rows_of_task), column..columns.min(column + columns_of_task));
    });
}

/// `C = A B` of `columns` of `B`, whose rows, `width` wide, lie in several places; `C` has just those columns.
pub(super) fn multiply_stacked(
    a: Left<'_>,
    parts: &[&[f32]],
    width: usize,
    columns: Range<usize>,
    c: &mut [f32],
) {
    /// Columns that are packed at once, and stay in the second-level cache.
    const BLOCK: usize = 8 * TILE;
    let depth = parts.iter().map(|part| part.len() / width).sum();
    let stride = columns.len();
    assert!(c.len() >= a.count() * stride, "the product does not fit");
    let mut data = vec![0.0; depth * BLOCK];
    for start in columns.clone().step_by(BLOCK) {
        let block = start..columns.end.min(start + BLOCK);
        // Row by row: whoever reads a panel of many rows first meets a new page with every one of them.
        for (k, row) in parts.iter().flat_map(|part| part.chunks_exact(width)).enumerate() {
            for (index, from) in row[block.clone()].chunks(PANEL).enumerate() {
                let to = &mut data[(index * depth + k) * PANEL..][..PANEL];
                to[..from.len()].copy_from_slice(from);
                to[from.len()..].fill(0.0);
            }
        }
        let panels = View { data: &data, depth, width: block.len() };
        let c = &mut c[start - columns.start..];
        // SAFETY: the assertion bounds every write, to columns of this block; `c` is exclusive.
        unsafe {
            let c = c.as_mut_ptr();
            multiply_into(a, Right::Panels(panels), Add::default(), 0..block.len(), c, stride);
        }
    }
}

/// [`multiply`], of some columns, for callers whose threads write to columns of the same rows.
///
/// # Safety
/// `c` must be valid for as many rows as `a` has, `stride` apart, each of `b`'s width, and nothing else may touch
/// those columns. Columns begin at a multiple of [`TILE`].
pub(super) unsafe fn multiply_into(
    a: Left<'_>,
    b: Right<'_>,
    add: Add<'_>,
    columns: Range<usize>,
    c: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's.
    unsafe { multiply_and_fetch(a, b, add, columns, c, stride, None) }
}

/// [`multiply_into`], while numbers that its caller will read are brought into the second-level cache.
///
/// # Safety
/// As for [`multiply_into`].
pub(super) unsafe fn multiply_and_fetch(
    a: Left<'_>,
    b: Right<'_>,
    add: Add<'_>,
    columns: Range<usize>,
    c: *mut f32,
    stride: usize,
    fetch: Option<Fetch>,
) {
    let (rows, depth) = (a.count(), b.depth());
    check(a, depth);
    if let Right::Rows { stride, width, .. } = b {
        assert!(
            stride.is_multiple_of(PANEL) && width <= stride,
            "the right factor's rows do not hold whole panels"
        );
    }
    if rows == 0 {
        return;
    }
    let mut turned = Vec::new();
    let mut strips = Strips::new(a);
    for first in columns.clone().step_by(columns_held(rows)) {
        let group = first..columns.end.min(first + columns_held(rows));
        for (index, block) in blocks(a, depth).enumerate() {
            for column in group.clone().step_by(TILE) {
                let tile = tile(b, block.clone(), column..group.end, &mut turned);
                let next = match b {
                    // Many rows do not wait for a tile.
                    Right::Panels(_) if rows >= depth || tile.panels < PANELS => None,
                    _ if column + TILE < group.end => {
                        Some(b.fetch(block.start, column + TILE, block.len()))
                    }
                    _ if block.end < depth => Some(b.fetch(block.end, group.start, block.len())),
                    // What follows in memory, be it of the next columns or of the next place of a convolution.
                    _ => Some(b.fetch(0, group.end, block.len())),
                };
                let of_left = strips.fetch(block.end..depth.min(block.end + block.len()), || {
                    let tiles = group.len().div_ceil(TILE);
                    let part = |at: usize| rows * at / tiles;
                    let at = (column - group.start) / TILE;
                    part(at)..part(at + 1)
                });
                let tile = Tile { next: [fetch.or(next), of_left], ..tile };
                let finish = match index {
                    0 => Finish {
                        per_column: add.per_column.map(|values| &values[column..]),
                        matrix: add.matrix.map(|(values, stride)| (&values[column..], stride)),
                        present: add.present,
                    },
                    _ => Finish { per_column: None, matrix: None, present: true },
                };
                let place = c.wrapping_add(column);
                // SAFETY: the caller vouches for these rows and columns of `c`; `check` has seen that every part of the
                // left factor lies inside it, and the tile holds its panels of this block.
                unsafe { strips.multiply(block.clone(), &tile, finish, place, stride) };
            }
        }
    }
}

/// The left factor's rows for the kernel.
struct Strips<'a> {
    kernel: Kernel,
    rows: Left<'a>,
    /// In place of parts that are not there.
    zeros: Vec<f32>,
    runs: Vec<Run>,
}

impl<'a> Strips<'a> {
    fn new(rows: Left<'a>) -> Self {
        let zeros = match rows {
            Left::Parts { length, .. } => vec![0.0; length],
            Left::Strided { .. } => Vec::new(),
        };
        Self { kernel: Kernel::detect(), rows, zeros, runs: Vec::new() }
    }

    /// Some rows, over a part of the depth, unless the cache still has them.
    fn fetch(&self, depth: Range<usize>, some: impl Fn() -> Range<usize>) -> Option<Fetch> {
        match self.rows {
            Left::Strided { data, rows, row_stride, depth_stride: 1 }
                if !depth.is_empty() && rows * row_stride > 2 * HELD =>
            {
                let rows = some();
                let start = data.as_ptr().wrapping_add(rows.start * row_stride + depth.start);
                Some(Fetch::rows(start, row_stride, rows.len(), depth.len()))
            }
            Left::Strided { .. } | Left::Parts { .. } => None,
        }
    }

    /// All rows, over a block of the depth, times a tile.
    ///
    /// # Safety
    /// The left factor must reach so far, the tile must hold its panels of this block, and `finish` and `out` the rows
    /// and columns.
    unsafe fn multiply(
        &mut self,
        block: Range<usize>,
        tile: &Tile<'_>,
        finish: Finish<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        match self.rows {
            Left::Strided { data, rows, row_stride, depth_stride } => {
                let start = data.as_ptr().wrapping_add(block.start * depth_stride);
                let a = Even { start, rows, row_stride, depth: block.len(), depth_stride };
                // SAFETY: the caller's.
                unsafe { self.kernel.run_even(a, tile, finish, out, stride) };
            }
            Left::Parts { data, starts, rows, length } => {
                for row in (0..rows).step_by(ROWS) {
                    let count = ROWS.min(rows - row);
                    let starts = |part: usize| &starts[part * rows + row..][..count];
                    runs_of_parts(data, &self.zeros, starts, length, block.clone(), &mut self.runs);
                    let strip = Strip { rows: count, runs: &self.runs, depth_stride: 1 };
                    let (finish, out) = (finish.from(row), out.wrapping_add(row * stride));
                    // SAFETY: the caller's.
                    unsafe { self.kernel.run(strip, tile, finish, out, stride) };
                }
            }
        }
    }
}

/// Columns of so many rows of a product that the second-level cache holds beside what is read, until the last block of
/// the depth has been added to them.
fn columns_held(rows: usize) -> usize {
    (HELD / (rows.max(1) * TILE)).max(1) * TILE
}

/// The first panels of `columns`, over a block of the depth; `turned` has room for what lies otherwise.
fn tile<'a>(
    b: Right<'a>,
    block: Range<usize>,
    columns: Range<usize>,
    turned: &'a mut Vec<f32>,
) -> Tile<'a> {
    let column = columns.start;
    let panels = columns.len().div_ceil(PANEL).min(PANELS);
    let last = columns.len().min(TILE) - (panels - 1) * PANEL;
    let (data, stride, row_stride) = match b {
        Right::Panels(View { data, depth, .. }) => {
            (&data[column * depth + block.start * PANEL..], depth * PANEL, PANEL)
        }
        Right::Rows { data, stride, .. } => (&data[block.start * stride + column..], PANEL, stride),
        Right::Columns { data, depth, width } => {
            let length = block.len();
            turned.resize(PANELS * length * PANEL, 0.0);
            let data = &data[column * depth + block.start..];
            let to = turned.chunks_exact_mut(length * PANEL).take(panels);
            to.enumerate().for_each(|(index, panel)| {
                pack_columns(data, depth, length, width - column, index, panel);
            });
            (&**turned, length * PANEL, PANEL)
        }
    };
    Tile { data, stride, row_stride, panels, last, next: [None; 2] }
}

/// Panics unless every element that the kernel will read of `a` is there.
fn check(a: Left<'_>, depth: usize) {
    match a {
        Left::Strided { data, rows, row_stride, depth_stride } => {
            let last = (rows.max(1) - 1) * row_stride + (depth.max(1) - 1) * depth_stride;
            assert!(row_stride == 1 || depth_stride == 1, "the left factor has gaps both ways");
            assert!(rows * depth == 0 || data.len() > last, "the left factor is too short");
        }
        Left::Parts { data, starts, rows, length } => {
            let fits = |start: &Start| match start {
                Start::At(start) => start + length <= data.len(),
                Start::Zeros => true,
            };
            assert!(rows * depth == starts.len() * length, "parts of another depth");
            assert!(starts.iter().all(fits), "the left factor is too short");
        }
    }
}

/// Cuts the depth at fixed places: whole parts while they are short, else pieces of one part.
fn blocks(a: Left<'_>, depth: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let length = match a {
        Left::Parts { length, .. } => length,
        Left::Strided { .. } => depth,
    };
    let step = if length <= DEPTH_BLOCK {
        DEPTH_BLOCK / length.max(1) * length.max(1)
    } else {
        length.div_ceil(length.div_ceil(DEPTH_BLOCK))
    };
    let parts = if length <= DEPTH_BLOCK { 1 } else { depth / length };
    let within = if length <= DEPTH_BLOCK { depth } else { length };
    (0..parts).flat_map(move |part| {
        let start = part * within;
        (0..within.max(1))
            .step_by(step.max(1))
            .map(move |at| start + at..start + within.min(at + step))
    })
}

/// Where the rows of a strip begin in each part of a block, and the length of the parts there.
fn runs_of_parts<'a>(
    data: &[f32],
    zeros: &[f32],
    starts: impl Fn(usize) -> &'a [Start],
    length: usize,
    block: Range<usize>,
    runs: &mut Vec<Run>,
) {
    runs.clear();
    let mut at = block.start;
    while at < block.end {
        let (part, offset) = (at / length, at % length);
        let starts = starts(part);
        let start = |r: usize| match starts[r.min(starts.len() - 1)] {
            Start::At(start) => data.as_ptr().wrapping_add(start + offset),
            Start::Zeros => zeros.as_ptr().wrapping_add(offset),
        };
        let zeros = starts.iter().all(|start| *start == Start::Zeros);
        let until = block.end.min((part + 1) * length);
        let starts = (!zeros).then(|| std::array::from_fn(start));
        runs.push(Run { starts, length: until - at });
        at = until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn naive(a: &[f32], b: &[f32], rows: usize, depth: usize, width: usize) -> Vec<f64> {
        let mut c = vec![0.0; rows * width];
        for row in 0..rows {
            for k in 0..depth {
                for column in 0..width {
                    c[row * width + column] +=
                        f64::from(a[row * depth + k]) * f64::from(b[k * width + column]);
                }
            }
        }
        c
    }

    fn assert_close(actual: &[f32], expected: &[f64]) {
        for (actual, expected) in actual.iter().zip(expected) {
            assert!((f64::from(*actual) - expected).abs() < 1e-4, "{actual} for {expected}");
        }
    }

    #[test]
    fn products_match_the_definition_in_either_direction() {
        for (rows, depth, width) in
            [(1, 1, 1), (7, 5, 3), (8, 16, 48), (9, 300, 49), (130, 270, 200), (33, 600, 31)]
        {
            let (a, b) = (numbers(rows * depth), numbers(depth * width));
            let expected = naive(&a, &b, rows, depth, width);
            let panels = Panels::from_rows(&b, width, depth, width);
            let mut c = vec![0.0; rows * width];
            multiply_rows(&a, Right::Panels(panels.view()), Add::default(), &mut c);
            assert_close(&c, &expected);

            // The same factor, read where it lies, in rows that hold whole panels.
            let stride = width.next_multiple_of(PANEL);
            let mut padded = vec![f32::NAN; depth * stride];
            for (to, from) in padded.chunks_exact_mut(stride).zip(b.chunks_exact(width)) {
                to[..width].copy_from_slice(from);
            }
            let mut c = vec![0.0; rows * width];
            let right = Right::Rows { data: &padded, stride, width };
            multiply_rows(&a, right, Add::default(), &mut c);
            assert_close(&c, &expected);

            // The same factor, where its transpose lies.
            let data: Vec<f32> =
                (0..width * depth).map(|i| b[i % depth * width + i / depth]).collect();
            let mut c = vec![0.0; rows * width];
            let right = Right::Columns { data: &data, depth, width };
            multiply_rows(&a, right, Add::default(), &mut c);
            assert_close(&c, &expected);
        }
    }

    #[test]
    fn what_is_added_is_added_once() {
        // The larger one has several groups of columns, and several blocks of the depth in each.
        for (rows, depth, width) in [(11, 700, 53), (600, 400, 320)] {
            let (a, b) = (numbers(rows * depth), numbers(depth * width));
            let (bias, matrix) = (numbers(width), numbers(rows * width));
            let mut expected = naive(&a, &b, rows, depth, width);
            for (i, value) in expected.iter_mut().enumerate() {
                *value += f64::from(bias[i % width]) + f64::from(matrix[i]) + 0.5;
            }
            let panels = Panels::from_rows(&b, width, depth, width);
            let turned: Vec<f32> =
                (0..width * depth).map(|i| b[i % depth * width + i / depth]).collect();
            let rights =
                [Right::Panels(panels.view()), Right::Columns { data: &turned, depth, width }];
            for right in rights {
                let mut c = vec![0.5; rows * width];
                let matrix = Some((&*matrix, width));
                let add = Add { per_column: Some(&bias), matrix, present: true };
                multiply(Left::rows(&a, depth), right, add, &mut c, width);
                assert_close(&c, &expected);
            }
        }
    }
}
