//! The factors of a product, where they lie in memory.

use std::ops::Range;

use super::blocking::{DEPTH_BLOCK, PANEL, TILE};
use super::fetch::Fetch;
use super::panels::View;

/// The right factor of one product.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
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
    pub(crate) fn depth(self) -> usize {
        match self {
            Self::Panels(panels) => panels.depth,
            Self::Rows { data, stride, .. } => data.len().div_ceil(stride),
            Self::Columns { depth, .. } => depth,
        }
    }

    pub(crate) fn width(self) -> usize {
        match self {
            Self::Panels(panels) => panels.width,
            Self::Rows { width, .. } | Self::Columns { width, .. } => width,
        }
    }

    /// What a tile is made of that begins with `column`, over `length` of the depth from `row` on.
    pub(crate) fn fetch(self, row: usize, column: usize, length: usize) -> Fetch {
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
    pub(crate) fn columns(self, first: usize, width: usize) -> Self {
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
pub(crate) enum Left<'a> {
    /// `(rows, depth)`; one of the strides is 1.
    Strided { data: &'a [f32], rows: usize, row_stride: usize, depth_stride: usize },
    /// Each row is joined of parts of the same length: row `r` of part `p` begins at `starts[p · rows + r]`.
    Parts { data: &'a [f32], starts: &'a [Start], rows: usize, length: usize },
}

/// Where a part of a row begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    At(usize),
    /// The part is all zeros.
    Zeros,
}

impl<'a> Left<'a> {
    /// Row-major rows one after the other.
    pub(crate) fn rows(data: &'a [f32], depth: usize) -> Self {
        Self::Strided { data, rows: data.len() / depth.max(1), row_stride: depth, depth_stride: 1 }
    }

    pub(crate) fn count(self) -> usize {
        match self {
            Self::Strided { rows, .. } | Self::Parts { rows, .. } => rows,
        }
    }

    /// Rows `first..first + count` of a strided factor.
    pub(crate) fn part(self, first: usize, count: usize) -> Self {
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

/// Panics unless every element that the kernel will read of `a` is there.
pub(crate) fn check(a: Left<'_>, depth: usize) {
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
pub(crate) fn blocks(a: Left<'_>, depth: usize) -> impl Iterator<Item = Range<usize>> {
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
