//! 3×3 convolution by Winograd's minimal filtering F(m×m, 3×3) (ADR 0004).
//!
//! An output tile of m×m pixels is `Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A` for filter `g` and the input pixels `d` around it
//! (Lavin and Gray, arXiv:1509.09308). Summed over channels, each place of a transformed tile is a matrix product.
//!
//! Tiles of 4×4 pixels take the fewest multiplications, but their transformed filters have four times the size of the
//! filters. Those of small layers are cached. Those of larger layers are computed again in each call, few at a time, right
//! before the products that read them (ADR 0052). On the smallest maps, where few tiles share a filter, tiles of 2×2 are
//! faster.

mod cached;
mod filters;
mod layout;
mod minimal;
mod on_the_fly;
mod square;
mod tiles;

use std::sync::{Arc, OnceLock};

use self::filters::{DirectedFilters, caches};
pub(super) use self::layout::Image;
use self::minimal::{Large, Minimal, Small};
use crate::engine::ops::conv::geometry::{Direction, Geometry, Padding};
use crate::engine::ops::gemm::{CopyPlace, Epilogue, PANEL, Panels, pack_columns};
use crate::engine::ops::once::get_or_init;
use crate::engine::ops::weight::CpuWeight;

/// Pixels of the largest map that uses small tiles.
const SMALL_MAP: usize = 16;
/// Pixels of the smallest map that is convolved so.
const LEAST_MAP: usize = 16;

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
    /// The answer does not depend on the batch, so that an image alone has the same bytes as among others.
    pub(super) fn is_faster_for(height: usize, width: usize) -> bool {
        height * width >= LEAST_MAP
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
            self.convolve_with::<Large>(x, image, &cached.large, epilogue, y);
        } else {
            self.convolve_with::<Small>(x, image, &cached.small, epilogue, y);
        }
    }

    fn convolve_with<M: Minimal>(
        self,
        x: &[f32],
        image: Image,
        cache: &OnceLock<Vec<f32>>,
        epilogue: Epilogue<'_>,
        y: &mut [f32],
    ) {
        if caches(self.from, self.to) {
            let transformed = get_or_init(cache, || self.transform_all::<M>());
            cached::convolve::<M>(x, image, self, transformed, epilogue, y);
        } else {
            on_the_fly::convolve::<M>(x, image, self, epilogue, y);
        }
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
