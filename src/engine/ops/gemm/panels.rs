//! Packing: the right factor of a product as panels of [`PANEL`] columns.

use std::ops::Range;

use rayon::prelude::*;

use super::blocking::{Blocks, PANEL};
use super::numbers::Numbers;
use super::transpose::transpose;
use crate::engine::ops::buffer::filled;
use crate::engine::ops::simd::vectorized;

/// A packed right factor, `(depth, width)`. Each panel is `(depth, PANEL)`, with zeros beyond the width.
pub(crate) struct Panels {
    data: Vec<f32>,
    depth: usize,
    width: usize,
    numbers: Numbers,
    blocks: Blocks,
}

impl Panels {
    /// Panels that `fill` writes in parallel, given their index.
    pub(crate) fn filled(
        depth: usize,
        width: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let data = filled(width.div_ceil(PANEL) * depth * PANEL, |data| {
            let panels = data.par_chunks_exact_mut((depth * PANEL).max(1)).enumerate();
            panels.for_each(|(index, panel)| fill(index, panel));
        });
        Self { data, depth, width, numbers: Numbers::Floats, blocks: Blocks::Short }
    }

    /// [`Self::filled`] on this thread alone, for callers that are one task of many.
    fn filled_serially(depth: usize, width: usize, fill: impl Fn(usize, &mut [f32])) -> Self {
        let data = filled(width.div_ceil(PANEL) * depth * PANEL, |data| {
            let panels = data.chunks_exact_mut((depth * PANEL).max(1)).enumerate();
            panels.for_each(|(index, panel)| fill(index, panel));
        });
        Self { data, depth, width, numbers: Numbers::Floats, blocks: Blocks::Short }
    }

    /// From row-major `(depth, width)` rows, `stride` apart.
    pub(crate) fn from_rows(source: &[f32], stride: usize, depth: usize, width: usize) -> Self {
        Self::filled_serially(depth, width, |index, panel| {
            pack_rows(source, stride, depth, width, index, panel);
        })
    }

    /// From the transpose: row-major `(width, depth)` rows, `stride` apart.
    pub(crate) fn from_columns(source: &[f32], stride: usize, depth: usize, width: usize) -> Self {
        Self::filled_serially(depth, width, |index, panel| {
            pack_columns(source, stride, depth, width, index, panel);
        })
    }

    /// The same panels, whose floats stand for pairs of bf16 numbers.
    pub(crate) fn of_pairs(self) -> Self {
        Self { numbers: Numbers::Bf16Pairs, ..self }
    }

    /// The same panels, whose depth products cut into long blocks.
    pub(crate) fn in_long_blocks(self) -> Self {
        Self { blocks: Blocks::Long, ..self }
    }

    /// Size in memory.
    pub(crate) fn size_bytes(&self) -> usize {
        std::mem::size_of_val(&*self.data)
    }

    pub(crate) fn view(&self) -> PanelsView<'_> {
        let Self { ref data, depth, width, numbers, blocks } = *self;
        PanelsView { data, depth, width, numbers, blocks }
    }
}

/// A borrowed packed factor: panels one after the other.
#[derive(Clone, Copy)]
pub(crate) struct PanelsView<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) depth: usize,
    pub(crate) width: usize,
    pub(crate) numbers: Numbers,
    pub(crate) blocks: Blocks,
}

impl<'a> PanelsView<'a> {
    /// Panels of floats.
    pub(crate) fn new(data: &'a [f32], depth: usize, width: usize) -> Self {
        Self { data, depth, width, numbers: Numbers::Floats, blocks: Blocks::Short }
    }
}

vectorized! {
    /// Packs one panel of `(depth, width)` rows.
    pub(crate) fn pack_rows(source: &[f32], stride: usize, depth: usize, width: usize, index: usize, panel: &mut [f32]) {
        let start = index * PANEL;
        let columns = PANEL.min(width - start);
        for (k, to) in panel.as_chunks_mut::<PANEL>().0.iter_mut().enumerate().take(depth) {
            let from = &source[k * stride + start..];
            if let Some(from) = from.first_chunk::<PANEL>() {
                // Beyond the columns, the next row begins.
                *to = std::array::from_fn(|i| if i < columns { from[i] } else { 0.0 });
            } else {
                to[..columns].copy_from_slice(&from[..columns]);
                to[columns..].fill(0.0);
            }
        }
    }
}

/// Packs one panel of the transpose of `(width, depth)` rows.
pub(crate) fn pack_columns(
    source: &[f32],
    stride: usize,
    depth: usize,
    width: usize,
    index: usize,
    panel: &mut [f32],
) {
    let start = index * PANEL;
    let columns = PANEL.min(width - start);
    let (panel, _) = panel.as_chunks_mut::<PANEL>();
    for (block, to) in panel[..depth].chunks_mut(PANEL).enumerate() {
        transpose(&source[start * stride + block * PANEL..], stride, columns, to);
    }
}

/// Packs one panel, over a block of the depth, of the transpose of what is packed itself.
///
/// - `source`: panels of that, `stride` apart, from the row on that becomes the first column
pub(crate) fn pack_from_panels(
    source: &[f32],
    stride: usize,
    block: Range<usize>,
    columns: usize,
    panel: &mut [f32],
) {
    let (mut to, _) = panel.as_chunks_mut::<PANEL>();
    let mut at = block.start;
    while at < block.end {
        let until = block.end.min((at / PANEL + 1) * PANEL);
        let (square, rest) = to.split_at_mut(until - at);
        transpose(&source[at / PANEL * stride + at % PANEL..], PANEL, columns, square);
        (to, at) = (rest, until);
    }
}
