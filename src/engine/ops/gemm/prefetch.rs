//! Numbers that a product brings into the cache for its successor.

use super::blocking::PANEL;

/// Numbers that a product has brought into the second-level cache on its way, for whoever comes next: the first strips
/// of a tile would wait for it as long as they multiply.
///
/// Each step of the depth asks for [`Self::WIDTH`] numbers of one row. A sweep goes over all rows, and the next one over
/// the numbers beside those of the last.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    pub(crate) start: *const f32,
    pub(crate) rows: usize,
    pub(crate) stride: usize,
    /// Numbers from the start of one sweep to that of the next.
    pub(crate) between: usize,
    pub(crate) sweeps: usize,
}

impl Prefetch {
    const WIDTH: usize = 2 * PANEL;

    /// So many numbers of each of some rows, `stride` apart.
    pub(crate) fn rows(start: *const f32, stride: usize, rows: usize, numbers: usize) -> Self {
        let sweeps = numbers.div_ceil(Self::WIDTH);
        Self { start, rows: rows.max(1), stride, between: Self::WIDTH, sweeps }
    }

    /// Numbers one after the other, by a product of this depth.
    pub(crate) fn stream(start: *const f32, numbers: usize, depth: usize) -> Self {
        let rows = depth.max(1);
        let between = rows * Self::WIDTH;
        Self { start, rows, stride: Self::WIDTH, between, sweeps: numbers.div_ceil(between) }
    }
}
