//! What a product prefetches for the one that follows.

use super::blocking::PANEL;
use crate::engine::ops::simd::in_vectors;

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

    /// Cut into so many shares, for callers that prefetch between products.
    pub(crate) fn in_shares(self, shares: usize) -> PrefetchShares {
        let share = self.count().div_ceil(shares);
        PrefetchShares { next: self.start, row: 0, left: self.count(), share, all: self }
    }

    /// `floats` consecutive floats, by a product of this depth.
    pub(crate) fn stream(start: *const f32, floats: usize, depth: usize) -> Self {
        let rows = depth.max(1);
        let between = rows * Self::WIDTH;
        Self { start, rows, stride: Self::WIDTH, between, sweeps: floats.div_ceil(between) }
    }
}

/// The shares of a [`Prefetch`] that are left.
pub(crate) struct PrefetchShares {
    all: Prefetch,
    next: *const f32,
    /// Row of `next` in its sweep.
    row: usize,
    /// How many times [`Prefetch::WIDTH`] floats are left, and how many times are one share.
    left: usize,
    share: usize,
}

impl PrefetchShares {
    /// Prefetches the next share.
    #[inline]
    pub(crate) fn prefetch_one(&mut self) {
        let count = self.share.min(self.left);
        self.left -= count;
        prefetch_some(self, count);
    }
}

in_vectors! {
    fn prefetch_some<V>(shares: &mut PrefetchShares, count: usize) {
        let Prefetch { rows, stride, between, .. } = shares.all;
        for _ in 0..count {
            V::prefetch(shares.next);
            V::prefetch(shares.next.wrapping_add(PANEL));
            shares.next = shares.next.wrapping_add(stride);
            shares.row += 1;
            if shares.row == rows {
                shares.next = shares.next.wrapping_add(between).wrapping_sub(rows * stride);
                shares.row = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_every_row_once() {
        let (rows, stride, floats) = (5, 1000, 100); // four sweeps of 32 floats
        let all = Prefetch::rows(std::ptr::null(), stride, rows, floats);
        let mut shares = all.in_shares(7);
        let mut lasts = Vec::new();
        for _ in 0..9 {
            shares.prefetch_one();
            lasts.push((shares.left, shares.next as usize / size_of::<f32>()));
        }
        // Three of the twenty at a time. Where the next ones begin: the row, and the floats of the sweeps before.
        let place = |index: usize| index % rows * stride + index / rows * Prefetch::WIDTH;
        let expected = [3, 6, 9, 12, 15, 18, 20, 20, 20].map(|done| (20 - done, place(done)));
        assert_eq!(lasts, expected);
    }
}
