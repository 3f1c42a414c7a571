//! 3×3 convolution by Winograd's minimal filtering F(m×m, 3×3).
//!
//! An output tile of m×m pixels is `Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A` for filter `g` and the input pixels `d` around it (Lavin
//! and Gray, arXiv:1509.09308). Summed over channels, each place of a transformed tile is a matrix product.
//!
//! Tiles of 4×4 pixels take the fewest multiplications, but their transformed filters have four times the size of the
//! filters. Those of small layers are cached; larger ones are transformed transformed_here in each call, a block at a time next to
//! the products that read it. On the smallest maps, where few tiles share what is read, tiles of 2×2 are faster.

mod filters;
mod layout;
mod minimal;
mod tiles;

use std::sync::OnceLock;

use rayon::prelude::*;

use self::filters::{DirectedFilters, caches};
pub(super) use self::layout::Image;
use self::layout::{GAP, MAX_TILES, MIN_TILES};
use self::minimal::{Large, Minimal, Small};
use self::tiles::{store_tiles, transform_tiles};
use crate::engine::ops::buffer::{SharedPtr, filled};
use crate::engine::ops::conv::geometry::{Geometry, Padding};
use crate::engine::ops::gemm::{
    Epilogue, Left, NR, PANEL, PanelsView, Right, gemm_columns_prefetching,
};
use crate::engine::ops::weight::CpuWeight;

/// Pixels of the largest map that is cut into small tiles.
const SMALL_MAP: usize = 16;

/// The filters of one layer.
pub(super) struct Winograd {
    /// `(out_channels, in_channels, 3, 3)`.
    weight: CpuWeight,
    in_channels: usize,
    out_channels: usize,
    forward: Cached,
    backward: Cached,
}

/// Transformed filters in one direction, of either size of tiles.
#[derive(Default)]
struct Cached {
    large: OnceLock<Vec<f32>>,
    small: OnceLock<Vec<f32>>,
}

impl Winograd {
    /// Whether a layer can be computed so.
    pub(super) fn supports(geometry: Geometry, in_channels: usize, out_channels: usize) -> bool {
        let Geometry { kernel, stride, padding } = geometry;
        kernel == 3
            && stride == 1
            && padding == Padding::same(1)
            && in_channels.is_multiple_of(PANEL)
            && out_channels.is_multiple_of(PANEL)
    }

    /// Whether images of this size are faster so. It must not depend on the batch: a row has the same bytes alone.
    ///
    /// A single tile is_faster_for where its filters need not be transformed transformed_here.
    pub(super) fn is_faster_for(&self, height: usize, width: usize) -> bool {
        let least = if caches(self.in_channels, self.out_channels) { 16 } else { 64 };
        height * width >= least
    }

    pub(super) fn new(weight: CpuWeight, in_channels: usize, out_channels: usize) -> Self {
        let (forward, backward) = (Cached::default(), Cached::default());
        Self { weight, in_channels, out_channels, forward, backward }
    }

    /// `(batch, h, w, in_channels)` → `(batch, h, w, out_channels)`.
    pub(super) fn forward(&self, x: &[f32], image: Image, epilogue: Epilogue<'_>, y: &mut [f32]) {
        let (from, to) = (self.in_channels, self.out_channels);
        let pass = DirectedFilters { weight: self.weight.values(), backward: false, from, to };
        pass.convolve(x, image, &self.forward, epilogue, y);
    }

    /// `(batch, h, w, out_channels)` → `(batch, h, w, in_channels)`, the gradient.
    pub(super) fn backward(&self, dy: &[f32], image: Image, dx: &mut [f32]) {
        let (from, to) = (self.out_channels, self.in_channels);
        let pass = DirectedFilters { weight: self.weight.values(), backward: true, from, to };
        pass.convolve(dy, image, &self.backward, Epilogue::default(), dx);
    }
}

fn convolve<M: Minimal>(
    x: &[f32],
    image: Image,
    pass: DirectedFilters<'_>,
    cached: &OnceLock<Vec<f32>>,
    epilogue: Epilogue<'_>,
    y: &mut [f32],
) {
    let (tiles, threads) = (image.tiles::<M>(), rayon::current_num_threads());
    let cache = caches(pass.from, pass.to);
    let place = SharedPtr::new(y);
    if cache || tiles >= 2 * MAX_TILES * threads {
        let transformed_here;
        let filters = if cache {
            cached.get_or_init(|| pass.transform_all::<M>())
        } else {
            transformed_here = pass.transform_all::<M>();
            &transformed_here
        };
        // Each task has some tiles and all channels; its share stays in the second-level cache.
        let count =
            tiles.div_ceil(tiles.div_ceil(MAX_TILES).max(threads.min(tiles.div_ceil(MIN_TILES))));
        let task = |task: usize| {
            let range = task * count..tiles.min((task + 1) * count);
            if range.is_empty() {
                return;
            }
            let transformed = transform_tiles::<M>(x, image, range.clone(), pass.from);
            for column in (0..pass.to).step_by(NR) {
                let block = &filters[column / NR * pass.block::<M>()..];
                let products =
                    pass.multiply::<M>(&transformed, range.len(), column, Source::Cached(block));
                // SAFETY: tasks have different tiles.
                unsafe {
                    store_tiles::<M>(
                        &products,
                        image,
                        range.clone(),
                        pass.to,
                        column,
                        epilogue,
                        place,
                    )
                };
            }
        };
        (0..tiles.div_ceil(count)).into_par_iter().for_each(task);
    } else {
        // Each task has some output channels and all tiles, and transforms its filters on the pass.
        let group = 4 * MAX_TILES;
        for first in (0..tiles).step_by(group) {
            let range = first..tiles.min(first + group);
            let transformed = transform_tiles::<M>(x, image, range.clone(), pass.from);
            (0..pass.to.div_ceil(NR)).into_par_iter().for_each(|task| {
                let column = task * NR;
                let products =
                    pass.multiply::<M>(&transformed, range.len(), column, Source::OnTheFly);
                // SAFETY: tasks have different channels.
                unsafe {
                    store_tiles::<M>(
                        &products,
                        image,
                        range.clone(),
                        pass.to,
                        column,
                        epilogue,
                        place,
                    )
                };
            });
        }
    }
}

/// Where transformed filters come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// Of one block of columns.
    Cached(&'a [f32]),
    OnTheFly,
}

impl DirectedFilters<'_> {
    /// With tiles of the size that supports the image.
    fn convolve(
        self,
        x: &[f32],
        image: Image,
        cached: &Cached,
        epilogue: Epilogue<'_>,
        y: &mut [f32],
    ) {
        if image.height * image.width > SMALL_MAP {
            convolve::<Large>(x, image, self, &cached.large, epilogue, y);
        } else {
            convolve::<Small>(x, image, self, &cached.small, epilogue, y);
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
        let columns = NR.min(self.to - column);
        let mut transformed_here = Vec::new();
        if matches!(source, Source::OnTheFly) {
            transformed_here = filled(self.chunk::<M>(), |_| {});
        }
        filled(M::PLACES * (tiles * NR + GAP), |products| {
            for first in (0..self.from).step_by(self.depth()) {
                let depth = self.depth().min(self.from - first);
                let mut next = 0..0; // channels to be fetched
                let filters = match source {
                    Source::Cached(filters) => &filters[first / self.depth() * self.chunk::<M>()..],
                    Source::OnTheFly => {
                        self.transform::<M>(column, columns, first, depth, &mut transformed_here);
                        next = first + depth..self.from.min(first + 2 * depth);
                        &transformed_here
                    }
                };
                for place in 0..M::PLACES {
                    let prefetch =
                        self.prefetch::<M>(column..column + columns, next.clone(), place);
                    let data = &transformed[place * (tiles * self.from + GAP) + first..];
                    let left =
                        Left::Strided { data, rows: tiles, row_stride: self.from, depth_stride: 1 };
                    let data = &filters[place * (depth * columns + GAP)..];
                    let right = Right::Packed(PanelsView { data, depth, width: columns });
                    let epilogue = Epilogue { accumulate: first > 0, ..Epilogue::default() };
                    let to = &mut products[place * (tiles * NR + GAP)..][..tiles * NR];
                    // SAFETY: `to` has a row of `NR` numbers for each tile.
                    unsafe {
                        gemm_columns_prefetching(
                            left,
                            right,
                            epilogue,
                            0..columns,
                            to.as_mut_ptr(),
                            NR,
                            prefetch,
                        );
                    }
                }
            }
        })
    }
}
