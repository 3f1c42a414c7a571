//! How images are cut into tiles, and how transformed tiles lie in memory.

use super::minimal::Minimal;
use crate::engine::ops::gemm::PANEL;

/// Most tiles of one task that has all output channels, and as many as it has before there are several tasks: filters
/// are read once for all of them.
pub(super) const MAX_TILES: usize = 64;
pub(super) const MIN_TILES: usize = 32;

/// Numbers between the end of one place and the start of the next: at a multiple of a page from each other, all places
/// would meet in the same lines of the first-level cache.
pub(super) const GAP: usize = PANEL;

/// Sizes of a batch of images.
#[derive(Clone, Copy)]
pub(crate) struct Image {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Image {
    pub(super) fn tiles_of_one<M: Minimal>(self) -> (usize, usize) {
        (self.height.div_ceil(M::OUT), self.width.div_ceil(M::OUT))
    }

    pub(super) fn tiles<M: Minimal>(self) -> usize {
        let (down, across) = self.tiles_of_one::<M>();
        self.batch * down * across
    }

    /// Image, and first pixel of the output tile.
    pub(super) fn place<M: Minimal>(self, tile: usize) -> (usize, usize, usize) {
        let (down, across) = self.tiles_of_one::<M>();
        let (image, tile) = (tile / (down * across), tile % (down * across));
        (image, tile / across * M::OUT, tile % across * M::OUT)
    }
}
