//! What a product prefetches for the one that follows.

use super::blocking::PANEL;

/// Memory that a product prefetches into the second-level cache while it computes (ADR 0007).
///
/// Without it, the first strips of a micro-panel would wait for memory as long as they multiply. Each step of the depth
/// prefetches [`Self::WIDTH`] floats of one row. A sweep covers these floats of all rows, and the next sweep covers the
/// floats after them.
#[derive(Clone, Copy)]
pub(crate) struct Prefetch {
    pub(crate) start: *const f32,
    pub(crate) rows: usize,
    pub(crate) stride: usize,
    /// Floats between the starts of two sweeps.
    pub(crate) between: usize,
    pub(crate) sweeps: usize,
}

impl Prefetch {
    const WIDTH: usize = 2 * PANEL;

    /// How many times [`Self::WIDTH`] floats are prefetched.
    pub(crate) fn count(&self) -> usize {
        self.rows * self.sweeps
    }

    /// `floats` floats of each of some rows, `stride` apart.
    pub(crate) fn rows(start: *const f32, stride: usize, rows: usize, floats: usize) -> Self {
        let sweeps = floats.div_ceil(Self::WIDTH);
        Self { start, rows: rows.max(1), stride, between: Self::WIDTH, sweeps }
    }

    /// `floats` consecutive floats, by a product of this depth.
    pub(crate) fn stream(start: *const f32, floats: usize, depth: usize) -> Self {
        let rows = depth.max(1);
        let between = rows * Self::WIDTH;
        Self { start, rows, stride: Self::WIDTH, between, sweeps: floats.div_ceil(between) }
    }
}
