//! How images are cut into tiles, and how transformed tiles are stored.

use super::minimal::Minimal;
use crate::engine::ops::gemm::PANEL;

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

/// How the input channels are cut into chunks, whose products are added one after the other.
#[derive(Clone, Copy)]
pub(super) struct Chunks {
    channels: usize,
    /// Channels of each chunk but the last, which may have fewer.
    depth: usize,
}

/// Some channels that are multiplied together.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) index: usize,
    /// The first channel.
    pub(super) first: usize,
    pub(super) depth: usize,
}

impl Chunks {
    /// Chunks of nearly one size: a short last one would cost as much as a whole one.
    ///
    /// - `channels`: a multiple of [`PANEL`]
    /// - `most`: most of them in one chunk, likewise
    pub(super) fn new(channels: usize, most: usize) -> Self {
        let depth = channels.div_ceil(channels.div_ceil(most)).next_multiple_of(PANEL);
        Self { channels, depth }
    }

    pub(super) fn channels(self) -> usize {
        self.channels
    }

    pub(super) fn count(self) -> usize {
        self.channels.div_ceil(self.depth)
    }

    /// Channels of the largest chunk.
    pub(super) fn depth(self) -> usize {
        self.depth
    }

    pub(super) fn get(self, index: usize) -> Chunk {
        let first = index * self.depth;
        Chunk { index, first, depth: self.depth.min(self.channels - first) }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Chunk> {
        (0..self.count()).map(move |index| self.get(index))
    }

    /// The chunk that follows.
    pub(super) fn after(self, chunk: Chunk) -> Option<Chunk> {
        (chunk.index + 1 < self.count()).then(|| self.get(chunk.index + 1))
    }

    /// Floats of transformed tiles: for each chunk and each place, a matrix `(tiles, depth)`.
    pub(super) fn floats<M: Minimal>(self, tiles: usize) -> usize {
        M::PLACES * (tiles * self.channels + self.count() * GAP)
    }
}

impl Chunk {
    /// Where its first place begins in transformed tiles, and the floats from one place to the next.
    pub(super) fn places<M: Minimal>(self, tiles: usize) -> (usize, usize) {
        let start = M::PLACES * (tiles * self.first + self.index * GAP);
        (start, tiles * self.depth + GAP)
    }
}
