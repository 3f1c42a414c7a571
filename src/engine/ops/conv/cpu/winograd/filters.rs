//! The filters of a layer in one direction, and their transforms.

use std::ops::Range;

use rayon::prelude::*;

use super::layout::GAP;
use super::minimal::Minimal;
use super::tiles::transform_filters;
use crate::engine::ops::buffer::filled;
use crate::engine::ops::conv::cpu::limits::MAX_CACHED_BYTES;
use crate::engine::ops::gemm::{NR, PANEL, Prefetch, pack_columns};

/// Input channels whose filters are transformed together where they are cached, and where a transformed chunk shall stay
/// in the second-level cache with the filters that are fetched for the next. Sums are cut here, whoever transforms.
const DEPTH_CACHED: usize = 192;
const DEPTH_ON_THE_FLY: usize = 64;

/// Filters between sixteen channels and sixteen others, whose rows are whole lines of the cache.
#[repr(align(64))]
struct FilterSquare([[f32; PANEL]; 9 * PANEL]);

/// One layer's filters in one direction.
#[derive(Clone, Copy)]
pub(super) struct DirectedFilters<'a> {
    /// `(out_channels, in_channels, 3, 3)` of the layer, whichever the direction.
    pub(super) weight: &'a [f32],
    pub(super) backward: bool,
    /// Channels of this direction.
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Whether the transformed filters of a layer are cached.
pub(super) fn caches(in_channels: usize, out_channels: usize) -> bool {
    9 * in_channels * out_channels * std::mem::size_of::<f32>() <= MAX_CACHED_BYTES
}

impl DirectedFilters<'_> {
    /// Channels that are transformed together.
    pub(super) fn depth(&self) -> usize {
        let most = if caches(self.from, self.to) { DEPTH_CACHED } else { DEPTH_ON_THE_FLY };
        // In equal parts: a short rest would cost nearly as much as a whole chunk.
        self.from.div_ceil(self.from.div_ceil(most)).next_multiple_of(PANEL)
    }

    /// Numbers of such a chunk, for a whole [`NR`] of columns.
    pub(super) fn chunk<M: Minimal>(&self) -> usize {
        M::PLACES * (self.depth() * NR + GAP)
    }

    /// Numbers of the transformed filters of a block of columns.
    pub(super) fn block<M: Minimal>(&self) -> usize {
        self.from.div_ceil(self.depth()) * self.chunk::<M>()
    }

    /// All filters: for each [`NR`] of columns, for each chunk of channels, for each place, panels.
    pub(super) fn transform_all<M: Minimal>(&self) -> Vec<f32> {
        filled(self.to.div_ceil(NR) * self.block::<M>(), |all| {
            all.par_chunks_mut(self.block::<M>()).enumerate().for_each(|(index, block)| {
                let columns = NR.min(self.to - index * NR);
                for (chunk, to) in block.chunks_mut(self.chunk::<M>()).enumerate() {
                    let first = chunk * self.depth();
                    let depth = self.depth().min(self.from - first);
                    self.transform::<M>(index * NR, columns, first, depth, to);
                }
            });
        })
    }

    /// Filters of some columns and some channels: for each place, panels `(depth, PANEL)`.
    pub(super) fn transform<M: Minimal>(
        &self,
        column: usize,
        columns: usize,
        first: usize,
        depth: usize,
        to: &mut [f32],
    ) {
        let stride = depth * columns + GAP;
        let mut square = FilterSquare([[0.0; PANEL]; 9 * PANEL]);
        for panel in 0..columns / PANEL {
            for at in (0..depth).step_by(PANEL) {
                self.square(first + at, column + panel * PANEL, &mut square);
                let to = &mut to[(panel * depth + at) * PANEL..];
                transform_filters::<M>(square.0.as_flattened(), self.backward, to, stride);
            }
        }
    }

    /// Where the filters of one channel of the layer's result begin that are read from channel `at` of its argument on.
    fn row(&self, channel: usize, at: usize) -> &[f32] {
        let in_channels = if self.backward { self.to } else { self.from };
        &self.weight[(channel * in_channels + at) * 9..]
    }

    /// Filters between sixteen channels from `channel` on and sixteen from `lanes` on of the result: nine positions of
    /// each channel after the other, in the order that the layer has them, with the result's channels side by side.
    fn square(&self, channel: usize, lanes: usize, to: &mut FilterSquare) {
        if self.backward {
            // A row of the weight is one channel, and has the lanes' positions one after the other.
            for (i, to) in to.0.chunks_exact_mut(9).enumerate() {
                let row = self.row(channel + i, lanes);
                pack_columns(row, 9, 9, PANEL, 0, to.as_flattened_mut());
            }
        } else {
            // A row of the weight is one lane, and has the channels' positions one after the other.
            let rows = self.row(lanes, channel);
            pack_columns(rows, 9 * self.from, 9 * PANEL, PANEL, 0, to.0.as_flattened_mut());
        }
    }

    /// Part `place` of the filters that the next block of `channels` transforms, which the products of this block have
    /// fetched while they cache the memory idle.
    pub(super) fn prefetch<M: Minimal>(
        &self,
        columns: Range<usize>,
        channels: Range<usize>,
        place: usize,
    ) -> Option<Prefetch> {
        let (rows, along) = if self.backward { (channels, columns) } else { (columns, channels) };
        let numbers = 9 * along.len();
        let part = numbers.div_ceil(M::PLACES).next_multiple_of(2 * PANEL);
        let first = place * part;
        if rows.is_empty() || first >= numbers {
            return None;
        }
        let stride = 9 * if self.backward { self.to } else { self.from };
        let start = self.row(rows.start, along.start)[first..].as_ptr();
        Some(Prefetch::rows(start, stride, rows.len(), part.min(numbers - first)))
    }
}
