//! 3×3 convolution by Winograd's minimal filtering F(m×m, 3×3).
//!
//! An output tile of m×m pixels is `Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A` for filter `g` and the input pixels `d` around it (Lavin
//! and Gray, arXiv:1509.09308). Summed over channels, each place of a transformed tile is a matrix product.
//!
//! Tiles of 4×4 pixels take the fewest multiplications, but their transformed filters have four times the size of the
//! filters. Those of small layers are kept; larger ones are transformed anew in each call, a block at a time next to
//! the products that read it. On the smallest maps, where few tiles share what is read, tiles of 2×2 are faster.

mod minimal;
mod tiles;

use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

use self::minimal::{Large, Minimal, Small};
use self::tiles::{store_tiles, transform_filters, transform_tiles};
use super::conv::{Geometry, Padding, SMALL};
use super::cpu::{Shared, filled};
use super::product::{
    Add, Fetch, Left, PANEL, Right, TILE, View, multiply_and_fetch, pack_columns,
};
use super::stored::Stored;

/// Most tiles of one task that has all output channels, and as many as it has before there are several tasks: filters
/// are read once for all of them.
const TILES: usize = 64;
const LEAST: usize = 32;
/// Input channels whose filters are transformed together where they are kept, and where a transformed chunk shall stay
/// in the second-level cache with the filters that are fetched for the next. Sums are cut here, whoever transforms.
const DEPTH_KEPT: usize = 192;
const DEPTH_ANEW: usize = 64;
/// Pixels of the largest map that is cut into small tiles.
const SMALL_MAP: usize = 16;

/// Numbers between the end of one place and the start of the next: at a multiple of a page from each other, all places
/// would meet in the same lines of the first-level cache.
const GAP: usize = PANEL;

/// The filters of one layer.
pub(super) struct Winograd {
    /// `(out_channels, in_channels, 3, 3)`.
    weight: Stored,
    in_channels: usize,
    out_channels: usize,
    forward: Kept,
    backward: Kept,
}

/// Transformed filters in one direction, of either size of tiles.
#[derive(Default)]
struct Kept {
    large: OnceLock<Vec<f32>>,
    small: OnceLock<Vec<f32>>,
}

/// Filters between sixteen channels and sixteen others, whose rows are whole lines of the cache.
#[repr(align(64))]
struct Square([[f32; PANEL]; 9 * PANEL]);

/// Sizes of a batch of images.
#[derive(Clone, Copy)]
pub(super) struct Image {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

impl Image {
    fn tiles_of_one<M: Minimal>(self) -> (usize, usize) {
        (self.height.div_ceil(M::OUT), self.width.div_ceil(M::OUT))
    }

    fn tiles<M: Minimal>(self) -> usize {
        let (down, across) = self.tiles_of_one::<M>();
        self.batch * down * across
    }

    /// Image, and first pixel of the output tile.
    fn place<M: Minimal>(self, tile: usize) -> (usize, usize, usize) {
        let (down, across) = self.tiles_of_one::<M>();
        let (image, tile) = (tile / (down * across), tile % (down * across));
        (image, tile / across * M::OUT, tile % across * M::OUT)
    }
}

/// One layer's filters in one direction.
#[derive(Clone, Copy)]
struct Direction<'a> {
    /// `(out_channels, in_channels, 3, 3)` of the layer, whichever the direction.
    weight: &'a [f32],
    back: bool,
    /// Channels of this direction.
    from: usize,
    to: usize,
}

impl Winograd {
    /// Whether a layer can be computed so.
    pub(super) fn suits(geometry: Geometry, in_channels: usize, out_channels: usize) -> bool {
        let Geometry { kernel, stride, padding } = geometry;
        kernel == 3
            && stride == 1
            && padding == Padding::same(1)
            && in_channels.is_multiple_of(PANEL)
            && out_channels.is_multiple_of(PANEL)
    }

    /// Whether images of this size are faster so. It must not depend on the batch: a row has the same bytes alone.
    ///
    /// A single tile pays where its filters need not be transformed anew.
    pub(super) fn pays(&self, height: usize, width: usize) -> bool {
        let least = if keeps(self.in_channels, self.out_channels) { 16 } else { 64 };
        height * width >= least
    }

    pub(super) fn new(weight: Stored, in_channels: usize, out_channels: usize) -> Self {
        let (forward, backward) = (Kept::default(), Kept::default());
        Self { weight, in_channels, out_channels, forward, backward }
    }

    /// `(batch, h, w, in_channels)` → `(batch, h, w, out_channels)`.
    pub(super) fn forward(&self, x: &[f32], image: Image, add: Add<'_>, y: &mut [f32]) {
        let (from, to) = (self.in_channels, self.out_channels);
        let way = Direction { weight: self.weight.values(), back: false, from, to };
        way.convolve(x, image, &self.forward, add, y);
    }

    /// `(batch, h, w, out_channels)` → `(batch, h, w, in_channels)`, the gradient.
    pub(super) fn backward(&self, dy: &[f32], image: Image, dx: &mut [f32]) {
        let (from, to) = (self.out_channels, self.in_channels);
        let way = Direction { weight: self.weight.values(), back: true, from, to };
        way.convolve(dy, image, &self.backward, Add::default(), dx);
    }
}

/// Whether the transformed filters of a layer are kept.
fn keeps(in_channels: usize, out_channels: usize) -> bool {
    9 * in_channels * out_channels * std::mem::size_of::<f32>() <= SMALL
}

fn convolve<M: Minimal>(
    x: &[f32],
    image: Image,
    way: Direction<'_>,
    kept: &OnceLock<Vec<f32>>,
    add: Add<'_>,
    y: &mut [f32],
) {
    let (tiles, threads) = (image.tiles::<M>(), rayon::current_num_threads());
    let keep = keeps(way.from, way.to);
    let place = Shared::new(y);
    if keep || tiles >= 2 * TILES * threads {
        let anew;
        let filters = if keep {
            kept.get_or_init(|| way.transform_all::<M>())
        } else {
            anew = way.transform_all::<M>();
            &anew
        };
        // Each task has some tiles and all channels; its share stays in the second-level cache.
        let count = tiles.div_ceil(tiles.div_ceil(TILES).max(threads.min(tiles.div_ceil(LEAST))));
        let task = |task: usize| {
            let range = task * count..tiles.min((task + 1) * count);
            if range.is_empty() {
                return;
            }
            let transformed = transform_tiles::<M>(x, image, range.clone(), way.from);
            for column in (0..way.to).step_by(TILE) {
                let block = &filters[column / TILE * way.block::<M>()..];
                let products =
                    way.multiply::<M>(&transformed, range.len(), column, Source::Kept(block));
                // SAFETY: tasks have different tiles.
                unsafe {
                    store_tiles::<M>(&products, image, range.clone(), way.to, column, add, place)
                };
            }
        };
        (0..tiles.div_ceil(count)).into_par_iter().for_each(task);
    } else {
        // Each task has some output channels and all tiles, and transforms its filters on the way.
        let group = 4 * TILES;
        for first in (0..tiles).step_by(group) {
            let range = first..tiles.min(first + group);
            let transformed = transform_tiles::<M>(x, image, range.clone(), way.from);
            (0..way.to.div_ceil(TILE)).into_par_iter().for_each(|task| {
                let column = task * TILE;
                let products = way.multiply::<M>(&transformed, range.len(), column, Source::Anew);
                // SAFETY: tasks have different channels.
                unsafe {
                    store_tiles::<M>(&products, image, range.clone(), way.to, column, add, place)
                };
            });
        }
    }
}

/// Where transformed filters come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// Of one block of columns.
    Kept(&'a [f32]),
    Anew,
}

impl Direction<'_> {
    /// With tiles of the size that suits the image.
    fn convolve(self, x: &[f32], image: Image, kept: &Kept, add: Add<'_>, y: &mut [f32]) {
        if image.height * image.width > SMALL_MAP {
            convolve::<Large>(x, image, self, &kept.large, add, y);
        } else {
            convolve::<Small>(x, image, self, &kept.small, add, y);
        }
    }

    /// Channels that are transformed together.
    fn depth(&self) -> usize {
        let most = if keeps(self.from, self.to) { DEPTH_KEPT } else { DEPTH_ANEW };
        // In equal parts: a short rest would cost nearly as much as a whole chunk.
        self.from.div_ceil(self.from.div_ceil(most)).next_multiple_of(PANEL)
    }

    /// Numbers of such a chunk, for a whole [`TILE`] of columns.
    fn chunk<M: Minimal>(&self) -> usize {
        M::PLACES * (self.depth() * TILE + GAP)
    }

    /// Numbers of the transformed filters of a block of columns.
    fn block<M: Minimal>(&self) -> usize {
        self.from.div_ceil(self.depth()) * self.chunk::<M>()
    }

    /// All filters: for each [`TILE`] of columns, for each chunk of channels, for each place, panels.
    fn transform_all<M: Minimal>(&self) -> Vec<f32> {
        filled(self.to.div_ceil(TILE) * self.block::<M>(), |all| {
            all.par_chunks_mut(self.block::<M>()).enumerate().for_each(|(index, block)| {
                let columns = TILE.min(self.to - index * TILE);
                for (chunk, to) in block.chunks_mut(self.chunk::<M>()).enumerate() {
                    let first = chunk * self.depth();
                    let depth = self.depth().min(self.from - first);
                    self.transform::<M>(index * TILE, columns, first, depth, to);
                }
            });
        })
    }

    /// Filters of some columns and some channels: for each place, panels `(depth, PANEL)`.
    fn transform<M: Minimal>(
        &self,
        column: usize,
        columns: usize,
        first: usize,
        depth: usize,
        to: &mut [f32],
    ) {
        let stride = depth * columns + GAP;
        let mut square = Square([[0.0; PANEL]; 9 * PANEL]);
        for panel in 0..columns / PANEL {
            for at in (0..depth).step_by(PANEL) {
                self.square(first + at, column + panel * PANEL, &mut square);
                let to = &mut to[(panel * depth + at) * PANEL..];
                transform_filters::<M>(square.0.as_flattened(), self.back, to, stride);
            }
        }
    }

    /// Where the filters of one channel of the layer's result begin that are read from channel `at` of its argument on.
    fn row(&self, channel: usize, at: usize) -> &[f32] {
        let in_channels = if self.back { self.to } else { self.from };
        &self.weight[(channel * in_channels + at) * 9..]
    }

    /// Filters between sixteen channels from `channel` on and sixteen from `lanes` on of the result: nine positions of
    /// each channel after the other, in the order that the layer has them, with the result's channels side by side.
    fn square(&self, channel: usize, lanes: usize, to: &mut Square) {
        if self.back {
            // A row of the weight is one channel, and has the lanes' positions one after the other.
            for (i, to) in to.0.chunks_exact_mut(9).enumerate() {
                let row = self.row(channel + i, lanes);
                pack_columns(row, 9, 9, PANEL, 0, to.as_flattened_mut());
            }
        } else {
            // A row of the weight is one lane, and has the channels' positions one after the other.
            let rows = self.row(lanes, channel);
            pack_columns(rows, 9 * self.from, 9 * PANEL, PANEL, 0, to.0.as_flattened_mut());
        }
    }

    /// Part `place` of the filters that the next block of `channels` transforms, which the products of this block have
    /// fetched while they keep the memory idle.
    fn fetch<M: Minimal>(
        &self,
        columns: Range<usize>,
        channels: Range<usize>,
        place: usize,
    ) -> Option<Fetch> {
        let (rows, along) = if self.back { (channels, columns) } else { (columns, channels) };
        let numbers = 9 * along.len();
        let part = numbers.div_ceil(M::PLACES).next_multiple_of(2 * PANEL);
        let first = place * part;
        if rows.is_empty() || first >= numbers {
            return None;
        }
        let stride = 9 * if self.back { self.to } else { self.from };
        let start = self.row(rows.start, along.start)[first..].as_ptr();
        Some(Fetch::rows(start, stride, rows.len(), part.min(numbers - first)))
    }

    /// The products of `tiles` transformed tiles with the filters of a block of columns.
    fn multiply<M: Minimal>(
        &self,
        transformed: &[f32],
        tiles: usize,
        column: usize,
        source: Source<'_>,
    ) -> Vec<f32> {
        let columns = TILE.min(self.to - column);
        let mut anew = Vec::new();
        if matches!(source, Source::Anew) {
            anew = filled(self.chunk::<M>(), |_| {});
        }
        filled(M::PLACES * (tiles * TILE + GAP), |products| {
            for first in (0..self.from).step_by(self.depth()) {
                let depth = self.depth().min(self.from - first);
                let mut next = 0..0; // channels to be fetched
                let filters = match source {
                    Source::Kept(filters) => &filters[first / self.depth() * self.chunk::<M>()..],
                    Source::Anew => {
                        self.transform::<M>(column, columns, first, depth, &mut anew);
                        next = first + depth..self.from.min(first + 2 * depth);
                        &anew
                    }
                };
                for place in 0..M::PLACES {
                    let fetch = self.fetch::<M>(column..column + columns, next.clone(), place);
                    let data = &transformed[place * (tiles * self.from + GAP) + first..];
                    let left =
                        Left::Strided { data, rows: tiles, row_stride: self.from, depth_stride: 1 };
                    let data = &filters[place * (depth * columns + GAP)..];
                    let right = Right::Panels(View { data, depth, width: columns });
                    let add = Add { present: first > 0, ..Add::default() };
                    let to = &mut products[place * (tiles * TILE + GAP)..][..tiles * TILE];
                    // SAFETY: `to` has a row of `TILE` numbers for each tile.
                    unsafe {
                        multiply_and_fetch(
                            left,
                            right,
                            add,
                            0..columns,
                            to.as_mut_ptr(),
                            TILE,
                            fetch,
                        );
                    }
                }
            }
        })
    }
}
