//! The right factor of a product as panels of columns, how it is packed, and its transpose.

use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use super::Right;
use super::kernel::transpose;
use crate::engine::ops::cpu::{filled, vectorized};

/// Columns of a panel.
pub(in crate::engine::ops) const PANEL: usize = 16;
/// Factors up to this size are kept turned as well, in bytes.
const KEPT_TURNED: usize = 1 << 20;

/// The right factor, `(depth, width)`, packed.
pub(in crate::engine::ops) struct Panels {
    data: Vec<f32>,
    depth: usize,
    width: usize,
}

impl Panels {
    /// Panels that `fill` writes, each `(depth, PANEL)`, with zeros beyond the width.
    pub(in crate::engine::ops) fn filled(
        depth: usize,
        width: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Self {
        let data = filled(width.div_ceil(PANEL) * depth * PANEL, |data| {
            let panels = data.par_chunks_exact_mut((depth * PANEL).max(1)).enumerate();
            panels.for_each(|(index, panel)| fill(index, panel));
        });
        Self { data, depth, width }
    }

    /// From row-major `(depth, width)` rows that lie `stride` apart.
    pub(in crate::engine::ops) fn from_rows(
        source: &[f32],
        stride: usize,
        depth: usize,
        width: usize,
    ) -> Self {
        let mut data = filled(width.div_ceil(PANEL) * depth * PANEL, |_| {});
        for (index, panel) in data.chunks_exact_mut((depth * PANEL).max(1)).enumerate() {
            pack_rows(source, stride, depth, width, index, panel);
        }
        Self { data, depth, width }
    }

    /// From the transpose: row-major `(width, depth)` rows that lie `stride` apart.
    pub(in crate::engine::ops) fn from_columns(
        source: &[f32],
        stride: usize,
        depth: usize,
        width: usize,
    ) -> Self {
        let mut data = filled(width.div_ceil(PANEL) * depth * PANEL, |_| {});
        for (index, panel) in data.chunks_exact_mut((depth * PANEL).max(1)).enumerate() {
            pack_columns(source, stride, depth, width, index, panel);
        }
        Self { data, depth, width }
    }

    pub(in crate::engine::ops) fn view(&self) -> View<'_> {
        View { data: &self.data, depth: self.depth, width: self.width }
    }
}

/// A right factor that never changes, and its transpose for the way back.
pub(in crate::engine::ops) struct FrozenPanels {
    panels: Panels,
    /// Blocks of the transpose, see [`Right::Turned`].
    positions: usize,
    turned: OnceLock<Panels>,
}

impl FrozenPanels {
    pub(in crate::engine::ops) fn new(panels: Panels, positions: usize) -> Self {
        Self { panels, positions, turned: OnceLock::new() }
    }

    pub(in crate::engine::ops) fn view(&self) -> View<'_> {
        self.panels.view()
    }

    /// The transpose. That of a small factor is turned once and kept: products of few rows would spend more time on
    /// turning than on multiplying.
    pub(in crate::engine::ops) fn turned(&self) -> Right<'_> {
        let turned = Right::Turned { panels: self.view(), positions: self.positions };
        if !keeps_turned(self.panels.depth, self.panels.width) {
            return turned;
        }
        let kept = self.turned.get_or_init(|| {
            let depth = turned.depth();
            Panels::filled(depth, turned.width(), |index, panel| {
                turn(self.view(), self.positions, 0..depth, index * PANEL, 1, panel);
            })
        });
        Right::Panels(kept.view())
    }
}

/// Whether a factor of this size is turned once.
pub(in crate::engine::ops) fn keeps_turned(depth: usize, width: usize) -> bool {
    depth * width.next_multiple_of(PANEL) * std::mem::size_of::<f32>() <= KEPT_TURNED
}

/// Panels that lie in memory of somebody else's, one after the other.
#[derive(Clone, Copy)]
pub(in crate::engine::ops) struct View<'a> {
    pub(in crate::engine::ops) data: &'a [f32],
    pub(in crate::engine::ops) depth: usize,
    pub(in crate::engine::ops) width: usize,
}

vectorized! {
    /// Packs one panel of `(depth, width)` rows.
    pub(in crate::engine::ops) fn pack_rows(source: &[f32], stride: usize, depth: usize, width: usize, index: usize, panel: &mut [f32]) {
        let start = index * PANEL;
        let columns = PANEL.min(width - start);
        for (k, to) in panel.as_chunks_mut::<PANEL>().0.iter_mut().enumerate().take(depth) {
            let from = &source[k * stride + start..];
            if let Some(from) = from.first_chunk::<PANEL>() {
                // What lies beyond the columns is another row's.
                *to = std::array::from_fn(|i| if i < columns { from[i] } else { 0.0 });
            } else {
                to[..columns].copy_from_slice(&from[..columns]);
                to[columns..].fill(0.0);
            }
        }
    }
}

/// Whose rows are whole lines of the cache: what is written as one is read as one.
#[repr(align(64))]
struct Square([[f32; PANEL]; PANEL]);

vectorized! {
    /// Packs one panel of the transpose of `(width, depth)` rows.
    pub(in crate::engine::ops) fn pack_columns(source: &[f32], stride: usize, depth: usize, width: usize, index: usize, panel: &mut [f32]) {
        let start = index * PANEL;
        let columns = PANEL.min(width - start);
        let (panel, _) = panel.as_chunks_mut::<PANEL>();
        let mut square = Square([[0.0; PANEL]; PANEL]);
        for (block, rows) in panel[..depth].chunks_mut(PANEL).enumerate() {
            for (column, to) in square.0[..columns].iter_mut().enumerate() {
                let from = &source[(start + column) * stride + block * PANEL..];
                match from.first_chunk::<PANEL>() {
                    Some(from) => *to = *from, // beyond the depth, what is not used
                    None => to[..rows.len()].copy_from_slice(&from[..rows.len()]),
                }
            }
            transpose(&square.0, 0, rows);
        }
    }
}

/// Writes a tile of the transpose, see [`Right::Turned`]: `block` of its depth, `panels` panels from `column` on.
pub(super) fn turn(
    source: View<'_>,
    positions: usize,
    block: Range<usize>,
    column: usize,
    panels: usize,
    to: &mut [f32],
) {
    let (depth, width) = (source.width, source.depth / positions); // of one position, as it is read here
    let length = block.end - block.start;
    for panel in 0..panels {
        let first = column + panel * PANEL;
        let columns = PANEL.min(width - first);
        let to = &mut to[panel * length * PANEL..(panel + 1) * length * PANEL];
        let (to, _) = to.as_chunks_mut::<PANEL>();
        let mut at = block.start;
        while at < block.end {
            let (position, lane) = (positions - 1 - at / depth, at % depth);
            let lanes = (PANEL - lane % PANEL).min(depth - lane).min(block.end - at);
            let from = &source.data
                [(lane / PANEL) * source.depth * PANEL + (position * width + first) * PANEL..]
                [..columns * PANEL];
            let (from, _) = from.as_chunks::<PANEL>();
            let to = &mut to[at - block.start..at - block.start + lanes];
            transpose(from, lane % PANEL, to);
            at += lanes;
        }
    }
}
