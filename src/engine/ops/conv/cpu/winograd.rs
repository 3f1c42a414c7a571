//! 3×3 convolution by Winograd's minimal filtering F(m×m, 3×3) (ADR 0004).
//!
//! An output tile of m×m pixels is `Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A` for filter `g` and the input pixels `d` around it
//! (Lavin and Gray, arXiv:1509.09308). Summed over channels, each place of a transformed tile is a matrix product.
//!
//! Tiles of 4×4 pixels take the fewest multiplications, but their transformed filters have four times the size of the
//! filters. Those of small layers are cached. Those of larger layers are computed again in each call, one block at a
//! time, right before the products that read it. On the smallest maps, where few tiles share a filter, tiles of 2×2 are
//! faster.

mod filters;
mod layout;
mod minimal;
mod tiles;

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;

use self::filters::{DirectedFilters, caches};
pub(super) use self::layout::Image;
use self::layout::{GAP, MAX_TILES, MIN_TILES};
use self::minimal::{Large, Minimal, Small};
use self::tiles::{store_tiles, transform_tiles};
use crate::engine::ops::buffer::{SharedPtr, filled};
use crate::engine::ops::conv::geometry::{Direction, Geometry, Padding};
use crate::engine::ops::gemm::{
    CopyPlace, Epilogue, Left, NR, PANEL, Panels, PanelsView, Right, gemm_columns_prefetching,
    pack_columns,
};
use crate::engine::ops::once::get_or_init;
use crate::engine::ops::weight::CpuWeight;

/// Pixels of the largest map that uses small tiles.
const SMALL_MAP: usize = 16;
/// Tasks of each thread with which none waits long for the last one.
const TASKS_OF_A_THREAD: usize = 4;

/// The filters of one layer.
pub(super) struct Winograd {
    /// `(out_channels, in_channels, 3, 3)`.
    weight: CpuWeight,
    in_channels: usize,
    out_channels: usize,
    forward: Cached,
    backward: Cached,
    copy: CopyPlace,
}

/// Transformed filters of one direction, for each size of tiles.
#[derive(Default)]
struct Cached {
    large: OnceLock<Vec<f32>>,
    small: OnceLock<Vec<f32>>,
}

impl Winograd {
    /// Whether this algorithm can compute a layer.
    pub(super) fn supports(geometry: Geometry, in_channels: usize, out_channels: usize) -> bool {
        let Geometry { kernel, stride, padding } = geometry;
        kernel == 3
            && stride == 1
            && padding == Padding::same(1)
            && in_channels.is_multiple_of(PANEL)
            && out_channels.is_multiple_of(PANEL)
    }

    /// Whether this algorithm is the fastest for images of this size.
    ///
    /// The answer does not depend on the batch, so that an image alone has the same bytes as among others. Where
    /// filters are cached, a single tile is enough.
    pub(super) fn is_faster_for(&self, height: usize, width: usize) -> bool {
        let least = if caches(self.in_channels, self.out_channels) { 16 } else { 64 };
        height * width >= least
    }

    pub(super) fn new(weight: CpuWeight, in_channels: usize, out_channels: usize) -> Self {
        let (forward, backward) = (Cached::default(), Cached::default());
        Self { weight, in_channels, out_channels, forward, backward, copy: CopyPlace::default() }
    }

    /// `(batch, h, w, in_channels)` → `(batch, h, w, out_channels)`.
    pub(super) fn forward(&self, x: &[f32], image: Image, epilogue: Epilogue<'_>, y: &mut [f32]) {
        let (from, to) = (self.in_channels, self.out_channels);
        let copy = self.copy();
        let filters = DirectedFilters {
            weight: self.weight.values(),
            copy: copy.as_ref().map(|panels| panels.view().data),
            direction: Direction::Forward,
            from,
            to,
        };
        filters.convolve(x, image, &self.forward, epilogue, y);
    }

    /// The gradient: `(batch, h, w, out_channels)` → `(batch, h, w, in_channels)`.
    pub(super) fn backward(&self, dy: &[f32], image: Image, dx: &mut [f32]) {
        let (from, to) = (self.out_channels, self.in_channels);
        let copy = self.copy();
        let filters = DirectedFilters {
            weight: self.weight.values(),
            copy: copy.as_ref().map(|panels| panels.view().data),
            direction: Direction::Backward,
            from,
            to,
        };
        filters.convolve(dy, image, &self.backward, Epilogue::default(), dx);
    }

    /// Large filters, which are transformed in each call, in the order of that, for as long as there is a training.
    fn copy(&self) -> Option<Arc<Panels>> {
        let Self { ref weight, in_channels, out_channels, .. } = *self;
        if caches(in_channels, out_channels) {
            return None;
        }
        let depth = 9 * in_channels;
        self.copy.get_or_pack(weight.training_copies()?, || {
            let panels = Panels::filled(depth, out_channels, |index, panel| {
                pack_columns(weight.values(), depth, depth, out_channels, index, panel);
            });
            weight.leave_memory();
            panels
        })
    }
}

fn convolve<M: Minimal>(
    x: &[f32],
    image: Image,
    filters: DirectedFilters<'_>,
    cache: &OnceLock<Vec<f32>>,
    epilogue: Epilogue<'_>,
    y: &mut [f32],
) {
    let (tiles, threads) = (image.tiles::<M>(), rayon::current_num_threads());
    let is_cached = caches(filters.from, filters.to);
    let place = SharedPtr::new(y);
    if is_cached || tiles >= 2 * MAX_TILES * threads {
        let computed;
        let transformed_filters = if is_cached {
            get_or_init(cache, || filters.transform_all::<M>())
        } else {
            computed = filters.transform_all::<M>();
            &computed
        };
        // Each task has some tiles and all channels. Its transformed tiles stay in the second-level cache.
        let count =
            tiles.div_ceil(tiles.div_ceil(MAX_TILES).max(threads.min(tiles.div_ceil(MIN_TILES))));
        let tasks = tiles.div_ceil(count);
        // Few such tasks would leave threads idle, so the output channels of each are tasks of their own.
        let are_few = tasks < TASKS_OF_A_THREAD * threads;
        let task = |task: usize| {
            let range = task * count..tiles.min((task + 1) * count);
            if range.is_empty() {
                return;
            }
            let transformed = transform_tiles::<M>(x, image, range.clone(), filters.from, are_few);
            let block = |block: usize| {
                let column = block * NR;
                let block = &transformed_filters[block * filters.block::<M>()..];
                let products =
                    filters.multiply::<M>(&transformed, range.len(), column, Source::Cached(block));
                // SAFETY: tasks have different tiles or channels.
                unsafe {
                    store_tiles::<M>(
                        &products,
                        image,
                        range.clone(),
                        filters.to,
                        column,
                        epilogue,
                        place,
                    )
                };
            };
            let blocks = 0..filters.to.div_ceil(NR);
            if are_few { blocks.into_par_iter().for_each(block) } else { blocks.for_each(block) }
        };
        (0..tasks).into_par_iter().for_each(task);
    } else {
        // Each task has some output channels and all tiles, and transforms its own filters.
        let group = 4 * MAX_TILES;
        for first in (0..tiles).step_by(group) {
            let range = first..tiles.min(first + group);
            let transformed = transform_tiles::<M>(x, image, range.clone(), filters.from, true);
            (0..filters.to.div_ceil(NR)).into_par_iter().for_each(|task| {
                let column = task * NR;
                let products =
                    filters.multiply::<M>(&transformed, range.len(), column, Source::OnTheFly);
                // SAFETY: tasks have different channels.
                unsafe {
                    store_tiles::<M>(
                        &products,
                        image,
                        range.clone(),
                        filters.to,
                        column,
                        epilogue,
                        place,
                    )
                };
            });
        }
    }
}

/// Where the transformed filters of a block of columns come from.
#[derive(Clone, Copy)]
enum Source<'a> {
    Cached(&'a [f32]),
    /// They are computed next to the products.
    OnTheFly,
}

impl DirectedFilters<'_> {
    /// Convolves with tiles of the size that suits the image.
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

    /// The products of `tiles` transformed tiles with the filters of a block of columns: for each place, `(tiles, NR)`.
    fn multiply<M: Minimal>(
        &self,
        transformed: &[f32],
        tiles: usize,
        column: usize,
        source: Source<'_>,
    ) -> Vec<f32> {
        let columns = NR.min(self.to - column);
        let mut buffer = Vec::new();
        if matches!(source, Source::OnTheFly) {
            buffer = filled(self.chunk::<M>(), |_| {});
        }
        filled(M::PLACES * (tiles * NR + GAP), |products| {
            for first in (0..self.from).step_by(self.depth()) {
                let depth = self.depth().min(self.from - first);
                let mut next = 0..0; // channels to prefetch
                let filters = match source {
                    Source::Cached(filters) => &filters[first / self.depth() * self.chunk::<M>()..],
                    Source::OnTheFly => {
                        self.transform::<M>(column, columns, first, depth, &mut buffer);
                        next = first + depth..self.from.min(first + 2 * depth);
                        &buffer
                    }
                };
                for place in 0..M::PLACES {
                    let prefetch =
                        self.prefetch::<M>(column..column + columns, next.clone(), place);
                    let data = &transformed[place * (tiles * self.from + GAP) + first..];
                    let left =
                        Left::Strided { data, rows: tiles, row_stride: self.from, depth_stride: 1 };
                    let data = &filters[place * (depth * columns + GAP)..];
                    let right = Right::Packed(PanelsView::new(data, depth, columns));
                    let epilogue = Epilogue { accumulate: first > 0, ..Epilogue::default() };
                    let to = &mut products[place * (tiles * NR + GAP)..][..tiles * NR];
                    // SAFETY: `to` is exclusive and has a row of `NR` floats for each tile.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::gemm::TrainingCopies;
    use crate::engine::ops::weight::tests::in_a_file;

    #[test]
    fn large_filters_give_the_same_bytes_from_their_file_and_from_a_copy() {
        let (inner, outer) = (336, 352);
        assert!(!caches(inner, outer));
        let values: Vec<f32> =
            (0..9 * inner * outer).map(|i| (i % 101) as f32 / 50.0 - 1.0).collect();
        let copies = TrainingCopies::default();
        let (_dir, weight) = in_a_file(&values, &[outer, inner, 3, 3], &copies);
        let filters = Winograd::new(weight, inner, outer);
        // Large tiles and small ones.
        let convolved = || {
            [(9, 8), (4, 4)].map(|(height, width)| {
                let image = Image { batch: 2, height, width };
                let pixels = 2 * height * width;
                let (mut y, mut dx) = (vec![0.0; pixels * outer], vec![0.0; pixels * inner]);
                filters.forward(&values[..dx.len()], image, Epilogue::default(), &mut y);
                filters.backward(&values[..y.len()], image, &mut dx);
                (y, dx)
            })
        };

        let in_place = convolved();
        let held = copies.hold();
        assert!(convolved() == in_place);
        assert_eq!(copies.size_bytes(), std::mem::size_of_val(&*values));
        drop(held);
        assert!(convolved() == in_place);
    }
}
