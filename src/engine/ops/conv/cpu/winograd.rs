//! 3×3 convolution by Winograd's minimal filtering F(m×m, 3×3).
//!
//! An output tile of m×m pixels is `Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A` for filter `g` and the input pixels `d` around it (Lavin
//! and Gray, arXiv:1509.09308). Summed over channels, each place of a transformed tile is a matrix product.
//!
//! Tiles of 4×4 pixels take the fewest multiplications, but their transformed filters have four times the size of the
//! filters. Those of small layers are kept; larger ones are transformed anew in each call, a block at a time next to
//! the products that read it. On the smallest maps, where few tiles share what is read, tiles of 2×2 are faster.

mod filters;
mod layout;
mod minimal;
mod tiles;

use std::sync::OnceLock;

use rayon::prelude::*;

use self::filters::{Direction, keeps};
pub(super) use self::layout::Image;
use self::layout::{GAP, LEAST, TILES};
use self::minimal::{Large, Minimal, Small};
use self::tiles::{store_tiles, transform_tiles};
use crate::engine::ops::buffer::{Shared, filled};
use crate::engine::ops::conv::geometry::{Geometry, Padding};
use crate::engine::ops::gemm::{Add, Left, PANEL, Right, TILE, View, multiply_and_fetch};
use crate::engine::ops::weight::Stored;

/// Pixels of the largest map that is cut into small tiles.
const SMALL_MAP: usize = 16;

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
