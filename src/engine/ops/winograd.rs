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

use std::sync::OnceLock;

use rayon::prelude::*;

use self::minimal::{Large, Minimal, Small};
use self::tiles::{store_tiles, transform_filters, transform_tiles};
use super::conv::{Geometry, Padding};
use super::cpu::{Shared, filled, prefetch};
use super::product::{self, Add, Left, PANEL, Right, TILE, View, multiply_into};

/// Most tiles of one task that has all output channels, and as many as it has before there are several tasks: filters
/// are read once for all of them.
const TILES: usize = 64;
const LEAST: usize = 32;
/// Input channels whose filters are transformed together where they are kept, and where a transformed chunk shall stay
/// in the second-level cache with the filters that are fetched for the next. Sums are cut here, whoever transforms.
const DEPTH_KEPT: usize = 192;
const DEPTH_ANEW: usize = 64;
/// Transformed filters up to this size are kept, in bytes.
const KEPT: usize = 16 << 20;
/// Pixels of the largest map that is cut into small tiles.
const SMALL_MAP: usize = 16;

/// Numbers between the end of one place and the start of the next: at a multiple of a page from each other, all places
/// would meet in the same lines of the first-level cache.
const GAP: usize = PANEL;

/// The filters of one layer, as far as they are kept transformed.
pub(super) struct Winograd {
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
    /// `(9 · in_channels, out_channels)` of the layer, whichever the direction.
    panels: View<'a>,
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

    pub(super) fn new(in_channels: usize, out_channels: usize) -> Self {
        let (forward, backward) = (Kept::default(), Kept::default());
        Self { in_channels, out_channels, forward, backward }
    }

    /// `(batch, h, w, in_channels)` → `(batch, h, w, out_channels)`.
    pub(super) fn forward(
        &self,
        x: &[f32],
        image: Image,
        panels: View<'_>,
        add: Add<'_>,
        y: &mut [f32],
    ) {
        let (from, to) = (self.in_channels, self.out_channels);
        let way = Direction { panels, back: false, from, to };
        way.convolve(x, image, &self.forward, add, y);
    }

    /// `(batch, h, w, out_channels)` → `(batch, h, w, in_channels)`, the gradient.
    pub(super) fn backward(&self, dy: &[f32], image: Image, panels: View<'_>, dx: &mut [f32]) {
        let (from, to) = (self.out_channels, self.in_channels);
        let way = Direction { panels, back: true, from, to };
        way.convolve(dy, image, &self.backward, Add::default(), dx);
    }
}

/// Whether the transformed filters of a layer are kept.
fn keeps(in_channels: usize, out_channels: usize) -> bool {
    Large::PLACES * in_channels * out_channels * std::mem::size_of::<f32>() <= KEPT
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
        let (panels, stride) = (columns / PANEL, depth * columns + GAP);
        for panel in 0..panels {
            let place = panel * depth * PANEL;
            if self.back {
                let lanes = column + panel * PANEL;
                for at in (0..depth).step_by(PANEL) {
                    let square = self.turned(first + at, lanes);
                    transform_filters::<M>(
                        square.as_flattened(),
                        PANEL,
                        &mut to[place + at * PANEL..],
                        stride,
                        PANEL,
                    );
                }
            } else {
                let index = column / PANEL + panel;
                let source = &self.panels.data[index * self.panels.depth * PANEL..];
                let source = &source[first * PANEL..];
                transform_filters::<M>(source, self.from, &mut to[place..], stride, depth);
            }
        }
    }

    /// Has the filters of two channels fetched that the next block transforms, while the products keep the memory idle.
    fn fetch(&self, column: usize, columns: usize, channel: usize) {
        let lanes = self.panels.depth * PANEL;
        for panel in 0..columns / PANEL {
            for position in 0..9 {
                // Backwards, sixteen channels are lanes of one panel, and rows of it the columns.
                let start = if self.back {
                    let row = position * self.to + column + panel * PANEL + channel % PANEL;
                    channel / PANEL * lanes + row * PANEL
                } else {
                    let row = position * self.from + channel;
                    (column / PANEL + panel) * lanes + row * PANEL
                };
                prefetch(&self.panels.data[start..start + 2 * PANEL]);
            }
        }
    }

    /// Filters from output channels `first..` to input channels `lanes..`, sixteen of each, turned by 180°.
    fn turned(&self, first: usize, lanes: usize) -> Box<[[f32; PANEL]; 9 * PANEL]> {
        let mut square = Box::new([[0.0; PANEL]; 9 * PANEL]);
        let panel = &self.panels.data[first / PANEL * self.panels.depth * PANEL..];
        for (position, to) in square.chunks_exact_mut(PANEL).enumerate() {
            let from = &panel[((8 - position) * self.to + lanes) * PANEL..][..PANEL * PANEL];
            product::transpose(from.as_chunks().0, 0, to);
        }
        square
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
                let mut next = 0..0; // channels to be fetched, two at a time
                let filters = match source {
                    Source::Kept(filters) => &filters[first / self.depth() * self.chunk::<M>()..],
                    Source::Anew => {
                        self.transform::<M>(column, columns, first, depth, &mut anew);
                        next = first + depth..self.from.min(first + 2 * depth);
                        &anew
                    }
                };
                let mut next = next.step_by(2);
                for place in 0..M::PLACES {
                    if let Some(channel) = next.next() {
                        self.fetch(column, columns, channel);
                    }
                    let data = &transformed[place * (tiles * self.from + GAP) + first..];
                    let left =
                        Left::Strided { data, rows: tiles, row_stride: self.from, depth_stride: 1 };
                    let data = &filters[place * (depth * columns + GAP)..];
                    let right = Right::Panels(View { data, depth, width: columns });
                    let add = Add { present: first > 0, ..Add::default() };
                    let to = &mut products[place * (tiles * TILE + GAP)..][..tiles * TILE];
                    // SAFETY: `to` has a row of `TILE` numbers for each tile.
                    unsafe { multiply_into(left, right, add, 0..columns, to.as_mut_ptr(), TILE) };
                }
            }
        })
    }
}
