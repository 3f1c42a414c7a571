//! The matrix of a frozen layer as the right factor of its forward and backward pass.

use std::sync::{Arc, OnceLock};

use super::blocking::PANEL;
use super::copies::CopyPlace;
use super::factor::Right;
use super::numbers::Numbers;
use super::pairs::{pack_paired_columns, pack_paired_rows};
use super::panels::{Panels, pack_columns, pack_rows};
use crate::engine::ops::once::get_or_init;
use crate::engine::ops::precision::Precision;
use crate::engine::ops::weight::CpuWeight;

/// Largest matrix that is always packed, in bytes. Larger ones are read in place unless their products have few rows or
/// a training holds copies.
///
/// Transposing costs as much as multiplying some six rows, a good part of the rows that a small model's products have.
/// Packing a large model would double its memory.
const MAX_PACKED_BYTES: usize = 1 << 20;

/// A frozen `W`, `(width, depth)`: the forward pass multiplies by `Wᵀ`, the backward pass by `W`.
pub(crate) struct FrozenMatrix {
    weight: CpuWeight,
    depth: usize,
    width: usize,
    /// The panels of `Wᵀ` and of `W`, packed at first use.
    forward: OnceLock<Panels>,
    backward: OnceLock<Panels>,
    /// The panels of `W` that a training keeps.
    copy: CopyPlace,
}

/// A right factor, with what keeps it in memory.
pub(crate) enum Factor<'a> {
    Borrowed(Right<'a>),
    Copy(Arc<Panels>),
    TransposeOf(Arc<Panels>),
}

impl Factor<'_> {
    pub(crate) fn right(&self) -> Right<'_> {
        match self {
            Self::Borrowed(right) => *right,
            Self::Copy(panels) => Right::Packed(panels.view()),
            Self::TransposeOf(panels) => Right::transpose_of(panels.view()),
        }
    }
}

impl FrozenMatrix {
    /// - `weight`: row-major `(width, depth)`
    pub(crate) fn new(weight: CpuWeight, width: usize, depth: usize) -> Self {
        let (forward, backward) = (OnceLock::new(), OnceLock::new());
        Self { weight, depth, width, forward, backward, copy: CopyPlace::default() }
    }

    /// `Wᵀ`, `(depth, width)`, the right factor of the forward pass.
    pub(crate) fn forward_factor(&self) -> Factor<'_> {
        let Self { depth, width, .. } = *self;
        let data = self.weight.values();
        if self.is_of_pairs(depth) {
            return self.packed(&self.forward, || {
                let fill = |index, panel: &mut [f32]| {
                    pack_paired_columns(data, depth, width, index, panel);
                };
                Panels::filled(depth / 2, width, fill).of_pairs()
            });
        }
        if self.is_small() || self.weight.has_few_rows() {
            return self.packed(&self.forward, || {
                let panels = Panels::filled(depth, width, |index, panel| {
                    pack_columns(data, depth, depth, width, index, panel);
                });
                if self.is_small() { panels } else { panels.in_long_blocks() }
            });
        }
        match self.copy() {
            Some(panels) => Factor::TransposeOf(panels),
            None => Factor::Borrowed(Right::Transposed { data, depth, width }),
        }
    }

    /// `W`, `(width, depth)`, the right factor of the backward pass. It is also packed where its rows do not hold whole
    /// panels.
    pub(crate) fn backward_factor(&self) -> Factor<'_> {
        let Self { depth, width, .. } = *self;
        let data = self.weight.values();
        if self.is_of_pairs(width) {
            return self.packed(&self.backward, || {
                let fill =
                    |index, panel: &mut [f32]| pack_paired_rows(data, width, depth, index, panel);
                Panels::filled(width / 2, depth, fill).of_pairs()
            });
        }
        if self.is_small() {
            return self.packed(&self.backward, || self.panels());
        }
        match self.copy() {
            Some(panels) => Factor::Copy(panels),
            None if depth.is_multiple_of(PANEL) => {
                let numbers = Numbers::Floats;
                Factor::Borrowed(Right::Rows { data, stride: depth, width: depth, numbers })
            }
            None => self.packed(&self.backward, || self.panels()),
        }
    }

    /// The panels of `W`.
    fn panels(&self) -> Panels {
        let Self { depth, width, .. } = *self;
        let data = self.weight.values();
        Panels::filled(width, depth, |index, panel| {
            pack_rows(data, depth, width, depth, index, panel);
        })
    }

    /// Panels that live as long as the matrix.
    fn packed<'a>(&self, cell: &'a OnceLock<Panels>, pack: impl FnOnce() -> Panels) -> Factor<'a> {
        let panels = get_or_init(cell, || self.instead_of_weight(pack));
        Factor::Borrowed(Right::Packed(panels.view()))
    }

    /// The panels of `W` for as long as there is a training.
    fn copy(&self) -> Option<Arc<Panels>> {
        let copies = self.weight.training_copies()?;
        self.copy.get_or_pack(copies, || self.instead_of_weight(|| self.panels()))
    }

    /// Packs a matrix whose place in the file is not read from then on.
    fn instead_of_weight(&self, pack: impl FnOnce() -> Panels) -> Panels {
        let panels = pack();
        if !self.is_small() {
            self.weight.leave_memory();
        }
        panels
    }

    /// Whether a product over this depth is one of bf16 numbers. Such a factor is always packed, in half the memory.
    fn is_of_pairs(&self, depth: usize) -> bool {
        self.weight.precision() == Precision::Bf16 && depth.is_multiple_of(2)
    }

    fn is_small(&self) -> bool {
        self.weight.size_bytes() <= MAX_PACKED_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::gemm::{Epilogue, TrainingCopies, par_gemm_rows};
    use crate::engine::ops::weight::tests::in_a_file;
    #[cfg(target_os = "linux")]
    use crate::engine::ops::weight::tests::resident_kib;

    #[test]
    fn a_large_matrix_gives_the_same_bytes_from_its_file_and_from_a_copy() {
        let (width, depth, rows) = (520, 528, 7);
        let values: Vec<f32> = (0..width * depth).map(|i| (i % 101) as f32 / 50.0 - 1.0).collect();
        let copies = TrainingCopies::default();
        let (dir, weight) = in_a_file(&values, &[width, depth], &copies);
        let matrix = FrozenMatrix::new(weight, width, depth);
        let products = || {
            [matrix.forward_factor(), matrix.backward_factor()].map(|factor| {
                let right = factor.right();
                let mut products = vec![0.0; rows * right.width()];
                let left = &values[..rows * right.depth()];
                par_gemm_rows(left, right, Epilogue::default(), &mut products);
                products
            })
        };

        let in_place = products();
        #[cfg(target_os = "linux")]
        assert!(resident_kib(&dir) > 1000);
        let held = copies.hold();
        assert_eq!(products(), in_place);
        assert_eq!(copies.size_bytes(), std::mem::size_of_val(&*values));
        #[cfg(target_os = "linux")]
        assert_eq!(resident_kib(&dir), 0);
        drop(held);
        assert_eq!(copies.size_bytes(), 0);
        assert_eq!(products(), in_place);
    }
}
