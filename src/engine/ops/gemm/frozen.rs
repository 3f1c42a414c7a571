//! The matrix of a linear layer as the right factor of products in both directions.

use std::sync::OnceLock;

use super::blocking::PANEL;
use super::factor::Right;
use super::panels::{Panels, pack_columns, pack_rows};
use crate::engine::ops::weight::CpuWeight;

/// Matrices up to this size are packed, in bytes; larger ones are read where they lie.
///
/// Turning costs as much as multiplying some six rows, a good part of what a small model's products have. Packing a large
/// model would double its memory.
const PACKED: usize = 1 << 20;

/// `W` `(width, depth)`, which never changes, with `Wᵀ` as the factor on the way there and `W` on the way back.
pub(crate) struct FrozenMatrix {
    stored: CpuWeight,
    depth: usize,
    width: usize,
    /// Of `Wᵀ` and of `W`, once they are asked for.
    forward: OnceLock<Panels>,
    backward: OnceLock<Panels>,
}

impl FrozenMatrix {
    /// `stored`: row-major `(width, depth)`.
    pub(crate) fn new(stored: CpuWeight, width: usize, depth: usize) -> Self {
        Self { stored, depth, width, forward: OnceLock::new(), backward: OnceLock::new() }
    }

    /// `Wᵀ`, `(depth, width)`.
    pub(crate) fn forward_factor(&self) -> Right<'_> {
        let Self { depth, width, .. } = *self;
        let data = self.stored.values();
        if !self.is_packed() {
            return Right::Transposed { data, depth, width };
        }
        let panels = self.forward.get_or_init(|| {
            Panels::filled(depth, width, |index, panel| {
                pack_columns(data, depth, depth, width, index, panel);
            })
        });
        Right::Packed(panels.view())
    }

    /// `W`, `(width, depth)`; it is packed as well where its rows do not hold whole panels.
    pub(crate) fn backward_factor(&self) -> Right<'_> {
        let Self { depth, width, .. } = *self;
        let data = self.stored.values();
        if !self.is_packed() && depth.is_multiple_of(PANEL) {
            return Right::Rows { data, stride: depth, width: depth };
        }
        let panels = self.backward.get_or_init(|| {
            Panels::filled(width, depth, |index, panel| {
                pack_rows(data, depth, width, depth, index, panel);
            })
        });
        Right::Packed(panels.view())
    }

    fn is_packed(&self) -> bool {
        self.stored.size_bytes() <= PACKED
    }
}
