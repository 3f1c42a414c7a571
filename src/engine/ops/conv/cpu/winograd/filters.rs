//! The filters of a layer in one direction, and their transforms.

use std::ops::Range;

use rayon::prelude::*;

use super::layout::GAP;
use super::minimal::Minimal;
use super::tiles::transform_filters;
use crate::engine::ops::buffer::filled;
use crate::engine::ops::conv::cpu::limits::MAX_CACHED_BYTES;
use crate::engine::ops::conv::geometry::Direction;
use crate::engine::ops::gemm::{NR, PANEL, Prefetch, pack_columns, transpose};

/// Input channels that are transformed together where the result is cached. Sums are cut at the same places.
const DEPTH_CACHED: usize = 192;
/// Likewise where it is not: a transformed chunk stays in the second-level cache, beside the filters that are
/// prefetched for the next chunk.
const DEPTH_ON_THE_FLY: usize = 64;

/// The filters between sixteen input and sixteen output channels. Each row is a line of the cache.
#[repr(align(64))]
struct FilterSquare([[f32; PANEL]; 9 * PANEL]);

/// The filters of a layer as one direction applies them.
#[derive(Clone, Copy)]
pub(super) struct DirectedFilters<'a> {
    /// `(out_channels, in_channels, 3, 3)` of the layer, in either direction.
    pub(super) weight: &'a [f32],
    /// The copy that a training keeps: panels `(9 · in_channels, PANEL)`, one lane per output channel of the layer.
    pub(super) copy: Option<&'a [f32]>,
    pub(super) direction: Direction,
    /// Input and output channels of this direction.
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Whether the transformed filters of a layer are cached.
pub(super) fn caches(in_channels: usize, out_channels: usize) -> bool {
    9 * in_channels * out_channels * std::mem::size_of::<f32>() <= MAX_CACHED_BYTES
}

impl DirectedFilters<'_> {
    /// Input channels that are transformed together: a chunk.
    pub(super) fn depth(&self) -> usize {
        let most = if caches(self.from, self.to) { DEPTH_CACHED } else { DEPTH_ON_THE_FLY };
        // Chunks of nearly one size: a short last one would cost as much as a whole one.
        self.from.div_ceil(self.from.div_ceil(most)).next_multiple_of(PANEL)
    }

    /// Floats of a transformed chunk for [`NR`] columns.
    pub(super) fn chunk<M: Minimal>(&self) -> usize {
        M::PLACES * (self.depth() * NR + GAP)
    }

    /// Floats of all transformed chunks for [`NR`] columns.
    pub(super) fn block<M: Minimal>(&self) -> usize {
        self.from.div_ceil(self.depth()) * self.chunk::<M>()
    }

    /// All transformed filters: for each block of [`NR`] columns, each chunk and each place, packed panels.
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

    /// The transformed filters of some columns and `depth` channels: for each place, panels `(depth, PANEL)`.
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
                let square = self.square(first + at, column + panel * PANEL, &mut square);
                let to = &mut to[(panel * depth + at) * PANEL..];
                transform_filters::<M>(square, self.is_backward(), to, stride);
            }
        }
    }

    fn is_backward(&self) -> bool {
        self.direction == Direction::Backward
    }

    /// Input channels of the layer.
    fn in_channels(&self) -> usize {
        if self.is_backward() { self.to } else { self.from }
    }

    /// The filters of one output channel of the layer, from its input channel `at` on.
    fn row(&self, channel: usize, at: usize) -> &[f32] {
        &self.weight[(channel * self.in_channels() + at) * 9..]
    }

    /// The filters between sixteen input channels from `channel` on and sixteen output channels from `lanes` on, in
    /// `buffer` unless they lie so in the copy.
    ///
    /// The nine positions of each input channel follow one another. Each is a row with one lane per output channel.
    fn square<'b>(
        &'b self,
        channel: usize,
        lanes: usize,
        buffer: &'b mut FilterSquare,
    ) -> &'b [f32] {
        match (self.copy, self.direction) {
            (Some(copy), Direction::Forward) => {
                return &copy[self.place_in_copy(lanes, channel)..][..9 * PANEL * PANEL];
            }
            (Some(copy), Direction::Backward) => {
                let from = &copy[self.place_in_copy(channel, lanes)..];
                let mut turned = [[0.0; PANEL]; PANEL];
                for position in 0..9 {
                    transpose(&from[position * PANEL..], 9 * PANEL, PANEL, &mut turned);
                    let to = buffer.0[position..].iter_mut().step_by(9);
                    to.zip(&turned).for_each(|(to, row)| *to = *row);
                }
            }
            (None, _) => self.copy_square(channel, lanes, buffer),
        }
        buffer.0.as_flattened()
    }

    /// Where the filters of sixteen output channels of the layer begin in the copy, from one of its input channels on.
    fn place_in_copy(&self, out_channel: usize, in_channel: usize) -> usize {
        9 * (out_channel * self.in_channels() + in_channel * PANEL)
    }

    /// Fills a square from the weight.
    fn copy_square(&self, channel: usize, lanes: usize, to: &mut FilterSquare) {
        if self.is_backward() {
            // A row of the weight is one of the channels, and holds the positions of all lanes.
            for (i, to) in to.0.chunks_exact_mut(9).enumerate() {
                let row = self.row(channel + i, lanes);
                pack_columns(row, 9, 9, PANEL, 0, to.as_flattened_mut());
            }
        } else {
            // A row of the weight is one of the lanes, and holds the positions of all channels.
            let rows = self.row(lanes, channel);
            pack_columns(rows, 9 * self.from, 9 * PANEL, PANEL, 0, to.0.as_flattened_mut());
        }
    }

    /// Part `place` of the filters of the next chunk, `channels`. The products of this chunk prefetch it, since they
    /// leave the memory idle.
    pub(super) fn prefetch<M: Minimal>(
        &self,
        columns: Range<usize>,
        channels: Range<usize>,
        place: usize,
    ) -> Option<Prefetch> {
        let (rows, along) =
            if self.is_backward() { (channels, columns) } else { (columns, channels) };
        if rows.is_empty() || along.is_empty() {
            return None;
        }
        // In the copy, sixteen output channels are one row.
        let (start, lanes) = match self.copy {
            Some(copy) => (&copy[self.place_in_copy(rows.start, along.start)..], PANEL),
            None => (self.row(rows.start, along.start), 1),
        };
        let floats = 9 * lanes * along.len();
        let part = floats.div_ceil(M::PLACES).next_multiple_of(2 * PANEL);
        let first = place * part;
        if first >= floats {
            return None;
        }
        let (stride, count) = (9 * lanes * self.in_channels(), rows.len() / lanes);
        Some(Prefetch::rows(start[first..].as_ptr(), stride, count, part.min(floats - first)))
    }
}
