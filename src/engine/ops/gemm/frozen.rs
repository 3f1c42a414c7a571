//! The matrix of a frozen layer as the right factor of its forward and backward pass.

use std::sync::OnceLock;

use super::blocking::PANEL;
use super::factor::Right;
use super::numbers::Numbers;
use super::pairs::{pack_paired_columns, pack_paired_rows};
use super::panels::{Panels, pack_columns, pack_rows};
use crate::engine::ops::once::get_or_init;
use crate::engine::ops::precision::Precision;
use crate::engine::ops::weight::CpuWeight;

/// Largest matrix that is packed, in bytes; larger ones are read in place unless their products have few rows.
///
/// Transposing costs as much as multiplying some six rows, a good part of the rows that a small model's products have.
/// Packing a large model would double its memory.
const MAX_PACKED_BYTES: usize = 1 << 20;

/// A frozen `W`, `(width, depth)`: the forward pass multiplies by `Wᵀ`, the backward pass by `W`.
pub(crate) struct FrozenMatrix {
    weight: CpuWeight,
    depth: usize,
    width: usize,
    /// The panels of `Wᵀ` and of `W`, packed at first use.
    forward: OnceLock<Panels>,
    backward: OnceLock<Panels>,
}

impl FrozenMatrix {
    /// - `weight`: row-major `(width, depth)`
    pub(crate) fn new(weight: CpuWeight, width: usize, depth: usize) -> Self {
        Self { weight, depth, width, forward: OnceLock::new(), backward: OnceLock::new() }
    }

    /// `Wᵀ`, `(depth, width)`, the right factor of the forward pass.
    pub(crate) fn forward_factor(&self) -> Right<'_> {
        let Self { depth, width, .. } = *self;
        let data = self.weight.values();
        if self.is_of_pairs(depth) {
            let panels = get_or_init(&self.forward, || {
                let fill = |index, panel: &mut [f32]| {
                    pack_paired_columns(data, depth, width, index, panel);
                };
                Panels::filled(depth / 2, width, fill).of_pairs()
            });
            return Right::Packed(panels.view());
        }
        if !self.is_packed() && !self.weight.has_few_rows() {
            return Right::Transposed { data, depth, width };
        }
        let panels = get_or_init(&self.forward, || {
            let panels = Panels::filled(depth, width, |index, panel| {
                pack_columns(data, depth, depth, width, index, panel);
            });
            if self.is_packed() { panels } else { panels.in_long_blocks() }
        });
        Right::Packed(panels.view())
    }

    /// `W`, `(width, depth)`, the right factor of the backward pass. It is also packed where its rows do not hold whole
    /// panels.
    pub(crate) fn backward_factor(&self) -> Right<'_> {
        let Self { depth, width, .. } = *self;
        let data = self.weight.values();
        if self.is_of_pairs(width) {
            let panels = get_or_init(&self.backward, || {
                let fill =
                    |index, panel: &mut [f32]| pack_paired_rows(data, width, depth, index, panel);
                Panels::filled(width / 2, depth, fill).of_pairs()
            });
            return Right::Packed(panels.view());
        }
        if !self.is_packed() && depth.is_multiple_of(PANEL) {
            return Right::Rows { data, stride: depth, width: depth, numbers: Numbers::Floats };
        }
        let panels = get_or_init(&self.backward, || {
            Panels::filled(width, depth, |index, panel| {
                pack_rows(data, depth, width, depth, index, panel);
            })
        });
        Right::Packed(panels.view())
    }

    /// Whether a product over this depth is one of bf16 numbers. Such a factor is always packed, in half the memory.
    fn is_of_pairs(&self, depth: usize) -> bool {
        self.weight.precision() == Precision::Bf16 && depth.is_multiple_of(2)
    }

    fn is_packed(&self) -> bool {
        self.weight.size_bytes() <= MAX_PACKED_BYTES
    }
}
