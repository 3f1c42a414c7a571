//! The matrix of a linear layer as the right factor of products in both directions.

use std::sync::OnceLock;

use super::blocking::PANEL;
use super::factor::Right;
use super::panels::{Panels, pack_columns, pack_rows};
use crate::engine::ops::weight::Stored;

/// Matrices up to this size are packed, in bytes; larger ones are read where they lie.
///
/// Turning costs as much as multiplying some six rows, a good part of what a small model's products have. Packing a large
/// model would double its memory.
const PACKED: usize = 1 << 20;

/// `W` `(width, depth)`, which never changes, with `Wᵀ` as the factor on the way there and `W` on the way back.
pub(crate) struct FrozenMatrix {
    stored: Stored,
    depth: usize,
    width: usize,
    /// Of `Wᵀ` and of `W`, once they are asked for.
    panels: OnceLock<Panels>,
    turned: OnceLock<Panels>,
}

impl FrozenMatrix {
    /// `stored`: row-major `(width, depth)`.
    pub(crate) fn new(stored: Stored, width: usize, depth: usize) -> Self {
        Self { stored, depth, width, panels: OnceLock::new(), turned: OnceLock::new() }
    }

    /// `Wᵀ`, `(depth, width)`.
    pub(crate) fn right(&self) -> Right<'_> {
        let Self { depth, width, .. } = *self;
        let data = self.stored.values();
        if !self.is_packed() {
            return Right::Columns { data, depth, width };
        }
        let panels = self.panels.get_or_init(|| {
            Panels::filled(depth, width, |index, panel| {
                pack_columns(data, depth, depth, width, index, panel);
            })
        });
        Right::Panels(panels.view())
    }

    /// `W`, `(width, depth)`; it is packed as well where its rows do not hold whole panels.
    pub(crate) fn turned(&self) -> Right<'_> {
        let Self { depth, width, .. } = *self;
        let data = self.stored.values();
        if !self.is_packed() && depth.is_multiple_of(PANEL) {
            return Right::Rows { data, stride: depth, width: depth };
        }
        let panels = self.turned.get_or_init(|| {
            Panels::filled(width, depth, |index, panel| {
                pack_rows(data, depth, width, depth, index, panel);
            })
        });
        Right::Panels(panels.view())
    }

    fn is_packed(&self) -> bool {
        self.stored.size_bytes() <= PACKED
    }
}
