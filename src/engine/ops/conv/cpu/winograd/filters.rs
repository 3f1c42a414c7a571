//! The filters of a layer in one direction, and their transforms.

use std::ops::Range;

use rayon::prelude::*;

use super::layout::GAP;
use super::minimal::Minimal;
use super::tiles::transform_filters;
use crate::engine::ops::buffer::filled;
use crate::engine::ops::conv::cpu::kept::SMALL;
use crate::engine::ops::gemm::{Fetch, PANEL, TILE, pack_columns};

/// Input channels whose filters are transformed together where they are kept, and where a transformed chunk shall stay
/// in the second-level cache with the filters that are fetched for the next. Sums are cut here, whoever transforms.
const DEPTH_KEPT: usize = 192;
const DEPTH_ANEW: usize = 64;

/// Filters between sixteen channels and sixteen others, whose rows are whole lines of the cache.
#[repr(align(64))]
struct Square([[f32; PANEL]; 9 * PANEL]);

/// One layer's filters in one direction.
#[derive(Clone, Copy)]
pub(super) struct Direction<'a> {
    /// `(out_channels, in_channels, 3, 3)` of the layer, whichever the direction.
    pub(super) weight: &'a [f32],
    pub(super) back: bool,
    /// Channels of this direction.
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Whether the transformed filters of a layer are kept.
pub(super) fn keeps(in_channels: usize, out_channels: usize) -> bool {
    9 * in_channels * out_channels * std::mem::size_of::<f32>() <= SMALL
}

impl Direction<'_> {
    /// Channels that are transformed together.
    pub(super) fn depth(&self) -> usize {
        let most = if keeps(self.from, self.to) { DEPTH_KEPT } else { DEPTH_ANEW };
        // In equal parts: a short rest would cost nearly as much as a whole chunk.
        self.from.div_ceil(self.from.div_ceil(most)).next_multiple_of(PANEL)
    }

    /// Numbers of such a chunk, for a whole [`TILE`] of columns.
    pub(super) fn chunk<M: Minimal>(&self) -> usize {
        M::PLACES * (self.depth() * TILE + GAP)
    }

    /// Numbers of the transformed filters of a block of columns.
    pub(super) fn block<M: Minimal>(&self) -> usize {
        self.from.div_ceil(self.depth()) * self.chunk::<M>()
    }

    /// All filters: for each [`TILE`] of columns, for each chunk of channels, for each place, panels.
    pub(super) fn transform_all<M: Minimal>(&self) -> Vec<f32> {
        filled(self.to.div_ceil(TILE) * self.block::<M>(), |all| {
            all.par_chunks_mut(self.block::<M>()).enumerate().for_each(|(index, block)| {
                let columns = TILE.min(self.to - index * TILE);
                for (chunk, to) in block.chunks_mut(self.chunk::<M>()).enumerate() {
                    let first = chunk * self.depth();
                    let depth = self.depth().min(self.from - first);
                    self.transform::<M>(index * TILE, columns, first, depth, to);
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
        let mut square = Square([[0.0; PANEL]; 9 * PANEL]);
        for panel in 0..columns / PANEL {
            for at in (0..depth).step_by(PANEL) {
                self.square(first + at, column + panel * PANEL, &mut square);
                let to = &mut to[(panel * depth + at) * PANEL..];
                transform_filters::<M>(square.0.as_flattened(), self.back, to, stride);
            }
        }
    }

    /// Where the filters of one channel of the layer's result begin that are read from channel `at` of its argument on.
    fn row(&self, channel: usize, at: usize) -> &[f32] {
        let in_channels = if self.back { self.to } else { self.from };
        &self.weight[(channel * in_channels + at) * 9..]
    }

    /// Filters between sixteen channels from `channel` on and sixteen from `lanes` on of the result: nine positions of
    /// each channel after the other, in the order that the layer has them, with the result's channels side by side.
    fn square(&self, channel: usize, lanes: usize, to: &mut Square) {
        if self.back {
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
    /// fetched while they keep the memory idle.
    pub(super) fn fetch<M: Minimal>(
        &self,
        columns: Range<usize>,
        channels: Range<usize>,
        place: usize,
    ) -> Option<Fetch> {
        let (rows, along) = if self.back { (channels, columns) } else { (columns, channels) };
        let numbers = 9 * along.len();
        let part = numbers.div_ceil(M::PLACES).next_multiple_of(2 * PANEL);
        let first = place * part;
        if rows.is_empty() || first >= numbers {
            return None;
        }
        let stride = 9 * if self.back { self.to } else { self.from };
        let start = self.row(rows.start, along.start)[first..].as_ptr();
        Some(Fetch::rows(start, stride, rows.len(), part.min(numbers - first)))
    }
}
