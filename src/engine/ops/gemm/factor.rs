//! The two factors of a product, by how they are stored.

use std::ops::Range;

use super::blocking::{Blocks, NR, PANEL};
use super::numbers::Numbers;
use super::panels::PanelsView;
use super::prefetch::Prefetch;

/// The right factor, `B`.
#[derive(Clone, Copy)]
pub(crate) enum Right<'a> {
    /// Packed panels.
    Packed(PanelsView<'a>),
    /// Row-major `(depth, width)`. The stride is a multiple of [`PANEL`], so that whole panels can be read in place.
    Rows { data: &'a [f32], stride: usize, width: usize, numbers: Numbers },
    /// The transpose of a row-major `(width, depth)` matrix, which is read one micro-panel at a time through a buffer.
    Transposed { data: &'a [f32], depth: usize, width: usize },
    /// The transpose of packed panels of `(width, depth)`, which is read in the same way.
    TransposedPanels {
        /// From the first column on.
        data: &'a [f32],
        /// Floats of a panel.
        stride: usize,
        depth: usize,
        width: usize,
    },
}

impl<'a> Right<'a> {
    /// The transpose of a packed factor.
    pub(crate) fn transpose_of(panels: PanelsView<'a>) -> Self {
        let PanelsView { data, depth: width, width: depth, .. } = panels;
        Self::TransposedPanels { data, stride: width * PANEL, depth, width }
    }

    pub(crate) fn depth(self) -> usize {
        match self {
            Self::Packed(panels) => panels.depth,
            Self::Rows { data, stride, .. } => data.len().div_ceil(stride),
            Self::Transposed { depth, .. } | Self::TransposedPanels { depth, .. } => depth,
        }
    }

    /// Numbers that are summed: as many as the depth has floats, or twice as many if these are pairs.
    pub(crate) fn steps(self) -> usize {
        match self.numbers() {
            Numbers::Floats => self.depth(),
            Numbers::Bf16Pairs => 2 * self.depth(),
        }
    }

    pub(crate) fn width(self) -> usize {
        match self {
            Self::Packed(panels) => panels.width,
            Self::Rows { width, .. }
            | Self::Transposed { width, .. }
            | Self::TransposedPanels { width, .. } => width,
        }
    }

    /// What its floats stand for, and those of the left factor.
    pub(crate) fn numbers(self) -> Numbers {
        match self {
            Self::Packed(PanelsView { numbers, .. }) | Self::Rows { numbers, .. } => numbers,
            Self::Transposed { .. } | Self::TransposedPanels { .. } => Numbers::Floats,
        }
    }

    /// How its depth is cut.
    pub(crate) fn blocks(self) -> Blocks {
        match self {
            Self::Packed(panels) => panels.blocks,
            Self::Rows { .. } | Self::Transposed { .. } | Self::TransposedPanels { .. } => {
                Blocks::Short
            }
        }
    }

    /// The memory behind the micro-panel that begins at `column`, over `length` steps of the depth from `row` on.
    pub(crate) fn prefetch(self, row: usize, column: usize, length: usize) -> Prefetch {
        match self {
            Self::Packed(PanelsView { data, depth, .. }) => {
                let start = data.as_ptr().wrapping_add(column * depth + row * PANEL);
                Prefetch::stream(start, length * NR, length)
            }
            Self::Rows { data, stride, .. } => Prefetch::rows(
                data.as_ptr().wrapping_add(row * stride + column),
                stride,
                length,
                NR,
            ),
            Self::Transposed { data, depth, .. } => {
                Prefetch::rows(data.as_ptr().wrapping_add(column * depth + row), depth, NR, length)
            }
            Self::TransposedPanels { data, stride, .. } => {
                let start = data.as_ptr().wrapping_add(row / PANEL * stride + column * PANEL);
                Prefetch::rows(start, stride, length.div_ceil(PANEL), NR * PANEL)
            }
        }
    }

    /// `width` columns from `first` on, a multiple of [`PANEL`].
    pub(crate) fn columns(self, first: usize, width: usize) -> Self {
        match self {
            Self::Packed(panels) => {
                let data = &panels.data[first * panels.depth..];
                Self::Packed(PanelsView { data, width, ..panels })
            }
            Self::Rows { data, stride, numbers, .. } => {
                Self::Rows { data: &data[first..], stride, width, numbers }
            }
            Self::Transposed { data, depth, .. } => {
                Self::Transposed { data: &data[first * depth..], depth, width }
            }
            Self::TransposedPanels { data, stride, depth, .. } => {
                Self::TransposedPanels { data: &data[first * PANEL..], stride, depth, width }
            }
        }
    }
}

/// The left factor, `A`, which is read in place.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// `(rows, depth)`; one of the strides is 1.
    Strided { data: &'a [f32], rows: usize, row_stride: usize, depth_stride: usize },
    /// Rows that are gathered from parts of one length: part `p` of row `r` begins at `starts[p · rows + r]`. These are
    /// the pixels under each position of a convolution's kernel.
    Gathered { data: &'a [f32], starts: &'a [Start], rows: usize, length: usize },
}

/// Where a part of a gathered row begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    At(usize),
    /// The part lies in the padding: all of it is zero.
    Zeros,
}

impl<'a> Left<'a> {
    /// A row-major matrix without gaps.
    pub(crate) fn rows(data: &'a [f32], depth: usize) -> Self {
        Self::Strided { data, rows: data.len() / depth.max(1), row_stride: depth, depth_stride: 1 }
    }

    pub(crate) fn count(self) -> usize {
        match self {
            Self::Strided { rows, .. } | Self::Gathered { rows, .. } => rows,
        }
    }

    /// Rows `first..first + count` of a strided factor. Gathered rows are never cut.
    pub(crate) fn part(self, first: usize, count: usize) -> Self {
        match self {
            Self::Strided { data, row_stride, depth_stride, .. } => Self::Strided {
                data: &data[first * row_stride..],
                rows: count,
                row_stride,
                depth_stride,
            },
            Self::Gathered { .. } => self,
        }
    }
}

/// Panics unless every element of `a` that the kernel reads is inside its slice.
pub(crate) fn check(a: Left<'_>, depth: usize) {
    match a {
        Left::Strided { data, rows, row_stride, depth_stride } => {
            let last = (rows.max(1) - 1) * row_stride + (depth.max(1) - 1) * depth_stride;
            assert!(row_stride == 1 || depth_stride == 1, "the left factor has gaps both ways");
            assert!(rows * depth == 0 || data.len() > last, "the left factor is too short");
        }
        Left::Gathered { data, starts, rows, length } => {
            let fits = |start: &Start| match start {
                Start::At(start) => start + length <= data.len(),
                Start::Zeros => true,
            };
            assert!(rows * depth == starts.len() * length, "parts of another depth");
            assert!(starts.iter().all(fits), "the left factor is too short");
        }
    }
}

/// Panics unless every element of `b` up to column `end` that the kernel reads, in whole panels, is inside its slice.
pub(crate) fn check_right(b: Right<'_>, depth: usize, end: usize) {
    match b {
        Right::Packed(PanelsView { data, .. }) => {
            let panels = end.next_multiple_of(PANEL) * depth;
            assert!(data.len() >= panels, "the right factor has too few panels");
        }
        Right::Rows { data, stride, width, .. } => {
            assert!(
                stride.is_multiple_of(PANEL) && width <= stride,
                "the right factor's rows do not hold whole panels"
            );
            let last = depth.saturating_sub(1) * stride + end.next_multiple_of(PANEL);
            assert!(depth == 0 || data.len() >= last, "the right factor is too short");
        }
        Right::Transposed { .. } | Right::TransposedPanels { .. } => {} // copied through slices
    }
}

/// Cuts the depth into blocks of at most `most` steps at fixed places: into whole parts of gathered rows while these are
/// short, else within each part.
pub(crate) fn blocks(a: Left<'_>, depth: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let length = match a {
        Left::Gathered { length, .. } => length,
        Left::Strided { .. } => depth,
    };
    let step = if length <= most {
        most / length.max(1) * length.max(1)
    } else {
        length.div_ceil(length.div_ceil(most))
    };
    let parts = if length <= most { 1 } else { depth / length };
    let within = if length <= most { depth } else { length };
    (0..parts).flat_map(move |part| {
        let start = part * within;
        (0..within.max(1))
            .step_by(step.max(1))
            .map(move |at| start + at..start + within.min(at + step))
    })
}
