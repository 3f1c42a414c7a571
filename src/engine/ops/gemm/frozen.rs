//! The matrix of a frozen layer as the right factor of its forward and backward pass.

use std::sync::OnceLock;

use super::blocking::PANEL;
use super::factor::Right;
use super::panels::{Panels, pack_columns, pack_rows};
use crate::engine::ops::once::get_or_init;
use crate::engine::ops::weight::CpuWeight;

/// Largest matrix that is packed, in bytes; larger ones are read in place.
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
        if !self.is_packed() {
            return Right::Transposed { data, depth, width };
        }
        let panels = get_or_init(&self.forward, || {
            Panels::filled(depth, width, |index, panel| {
                pack_columns(data, depth, depth, width, index, panel);
            })
        });
        Right::Packed(panels.view())
    }

    /// `W`, `(width, depth)`, the right factor of the backward pass. It is also packed where its rows do not hold whole
    /// panels.
    pub(crate) fn backward_factor(&self) -> Right<'_> {
        let Self { depth, width, .. } = *self;
        let data = self.weight.values();
        if !self.is_packed() && depth.is_multiple_of(PANEL) {
            return Right::Rows { data, stride: depth, width: depth };
        }
        let panels = get_or_init(&self.backward, || {
            Panels::filled(width, depth, |index, panel| {
                pack_rows(data, depth, width, depth, index, panel);
            })
        });
        Right::Packed(panels.view())
    }

    fn is_packed(&self) -> bool {
        self.weight.size_bytes() <= MAX_PACKED_BYTES
    }
}
