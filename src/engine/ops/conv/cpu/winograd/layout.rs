//! How images are cut into tiles, and how transformed tiles are stored.

use super::minimal::Minimal;
use crate::engine::ops::gemm::PANEL;

/// Most tiles of one task that computes all output channels.
pub(super) const MAX_TILES: usize = 64;
/// Least tiles of such a task, since each reads all filters.
pub(super) const MIN_TILES: usize = 16;

/// Floats between the end of one place and the start of the next. Without a gap, places a multiple of a page apart
/// would compete for the same lines of the first-level cache.
pub(super) const GAP: usize = PANEL;

/// The size of a batch of images.
#[derive(Clone, Copy)]
pub(crate) struct Image {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Image {
    /// Tiles of one image, down and across.
    pub(super) fn tiles_of_one<M: Minimal>(self) -> (usize, usize) {
        (self.height.div_ceil(M::OUT), self.width.div_ceil(M::OUT))
    }

    /// Tiles of all images.
    pub(super) fn tiles<M: Minimal>(self) -> usize {
        let (down, across) = self.tiles_of_one::<M>();
        self.batch * down * across
    }

    /// The image of a tile, and the row and column of its first output pixel.
    pub(super) fn place<M: Minimal>(self, tile: usize) -> (usize, usize, usize) {
        let (down, across) = self.tiles_of_one::<M>();
        let (image, tile) = (tile / (down * across), tile % (down * across));
        (image, tile / across * M::OUT, tile % across * M::OUT)
    }
}
