//! The kernel's operands: rows of the left factor and a micro-panel of the right one.

use crate::engine::ops::gemm::blocking::{MR, PANEL};
use crate::engine::ops::gemm::prefetch::Prefetch;

/// Up to [`MR`] gathered rows of the left factor, as consecutive runs of the depth.
#[derive(Clone, Copy)]
pub(crate) struct Strip<'a> {
    pub(crate) rows: usize,
    pub(crate) runs: &'a [Run],
}

/// A stretch of the depth of a strip.
#[derive(Clone, Copy)]
pub(crate) struct Run {
    /// Where each row begins, or `None` if all rows are zero.
    pub(crate) starts: Option<[*const f32; MR]>,
    pub(crate) length: usize,
}

/// Any number of rows of the left factor, at one distance from each other.
#[derive(Clone, Copy)]
pub(crate) struct StridedRows {
    pub(crate) start: *const f32,
    pub(crate) rows: usize,
    pub(crate) row_stride: usize,
    pub(crate) depth: usize,
    pub(crate) depth_stride: usize,
}

impl StridedRows {
    /// `rows` rows from `first` on.
    #[inline(always)]
    pub(super) fn part(self, first: usize, rows: usize) -> Self {
        let start = self.start.wrapping_add(first * self.row_stride);
        Self { start, rows, ..self }
    }
}

/// Up to [`NR`](super::super::blocking::NR) columns of the right factor, as panels.
#[derive(Clone, Copy)]
pub(crate) struct MicroPanel<'a> {
    /// Panels that begin `stride` apart. Their rows begin `row_stride` apart.
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
    pub(crate) row_stride: usize,
    pub(crate) panels: usize,
    /// Columns of the last panel.
    pub(crate) last: usize,
    /// What to prefetch meanwhile: of the right factor, and of the left.
    pub(crate) next: [Option<Prefetch>; 2],
}

impl MicroPanel<'_> {
    /// All of its columns.
    pub(super) fn columns(&self) -> usize {
        (self.panels - 1) * PANEL + self.last
    }

    /// At most `most` columns from `first` on, which begin a register.
    #[inline(always)]
    pub(super) fn some(&self, first: usize, most: usize) -> Columns {
        let Self { data, stride, row_stride, .. } = *self;
        Columns { start: data.as_ptr(), stride, row_stride, count: self.columns() }
            .some(first, most)
    }
}

/// How many products of one size there are, and the floats from each left factor, micro-panel and result to the next.
#[derive(Clone, Copy)]
pub(crate) struct Repeats {
    pub(crate) count: usize,
    pub(crate) of_a: usize,
    pub(crate) of_panels: usize,
    pub(crate) of_out: usize,
}

/// Columns of a micro-panel: some of a panel, or several panels.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) start: *const f32,
    /// Floats between panels, and between the rows of each.
    pub(super) stride: usize,
    pub(super) row_stride: usize,
    pub(super) count: usize,
}

impl Columns {
    /// At most `most` columns from `first` on, which begin a register.
    #[inline(always)]
    pub(super) fn some(self, first: usize, most: usize) -> Self {
        let at = first / PANEL * self.stride + first % PANEL;
        Self { start: self.start.wrapping_add(at), count: most.min(self.count - first), ..self }
    }

    /// The same columns of a factor that begins so many floats later.
    #[inline(always)]
    pub(super) fn moved(self, floats: usize) -> Self {
        Self { start: self.start.wrapping_add(floats), ..self }
    }
}
