//! The filters of a layer in one direction, and their transforms.

use std::ops::Range;

use rayon::prelude::*;

use super::layout::Chunks;
use super::minimal::Minimal;
use super::square::{FilterSquare, Square};
use super::tiles::transform_filters;
use crate::engine::ops::buffer::filled;
use crate::engine::ops::conv::cpu::limits::MAX_CACHED_BYTES;
use crate::engine::ops::conv::geometry::Direction;
use crate::engine::ops::gemm::{NR, PANEL, Prefetch, pack_columns, transpose};

/// Most input channels that are transformed together where the result is cached. Sums are cut at the same places.
const DEPTH: usize = 192;

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
    /// How input channels are cut where transformed filters are cached.
    pub(super) fn chunks(&self) -> Chunks {
        Chunks::new(self.from, DEPTH)
    }

    /// All transformed filters: for each block of [`NR`] columns, each chunk and each place, packed panels
    /// `(depth, PANEL)`.
    pub(super) fn transform_all<M: Minimal>(&self) -> Vec<f32> {
        let chunks = self.chunks();
        let block = chunks.floats::<M>(NR);
        filled(self.to.div_ceil(NR) * block, |all| {
            all.par_chunks_mut(block).enumerate().for_each(|(index, block)| {
                let column = index * NR;
                let columns = NR.min(self.to - column);
                let mut buffer = FilterSquare::default();
                for chunk in chunks.iter() {
                    let (start, stride) = chunk.places::<M>(columns);
                    for panel in 0..columns / PANEL {
                        for at in (0..chunk.depth).step_by(PANEL) {
                            let lanes = column + panel * PANEL;
                            let square = self.square(chunk.first + at, lanes, &mut buffer);
                            let to = &mut block[start + (panel * chunk.depth + at) * PANEL..];
                            transform_filters::<M>(square, self.is_backward(), to, stride);
                        }
                    }
                }
            });
        })
    }

    pub(super) fn is_backward(&self) -> bool {
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
    pub(super) fn square<'b>(
        &'b self,
        channel: usize,
        lanes: usize,
        buffer: &'b mut FilterSquare,
    ) -> Square<'b> {
        match (self.copy, self.direction) {
            (Some(copy), Direction::Forward) => {
                Square::by_channel(&copy[self.place_in_copy(lanes, channel)..])
            }
            (Some(copy), Direction::Backward) => {
                let from = &copy[self.place_in_copy(channel, lanes)..];
                for (position, to) in buffer.0.chunks_exact_mut(PANEL).enumerate() {
                    transpose(&from[position * PANEL..], 9 * PANEL, PANEL, to);
                }
                Square::by_position(buffer.0.as_flattened())
            }
            (None, _) => {
                self.copy_square(channel, lanes, buffer);
                Square::by_channel(buffer.0.as_flattened())
            }
        }
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

    /// The memory of the filters of some channels, which the products of the channels before prefetch: they leave the
    /// memory idle.
    pub(super) fn memory(&self, columns: Range<usize>, channels: Range<usize>) -> Prefetch {
        let (rows, along) =
            if self.is_backward() { (channels, columns) } else { (columns, channels) };
        // In the copy, sixteen output channels are one row.
        let (start, lanes) = match self.copy {
            Some(copy) => (&copy[self.place_in_copy(rows.start, along.start)..], PANEL),
            None => (self.row(rows.start, along.start), 1),
        };
        let (rows, stride) = (rows.len() / lanes, 9 * lanes * self.in_channels());
        Prefetch::rows(start.as_ptr(), stride, rows, 9 * lanes * along.len())
    }
}
