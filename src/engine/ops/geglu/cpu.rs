//! GEGLU on the CPU: both halves of the projection are computed block by block and gated in the cache.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::engine::ops::buffer::{SharedPtr, filled, tensor, values};
use crate::engine::ops::gemm::{
    Epilogue, FrozenMatrix, Left, NR, gemm_columns, paired, par_blocks, par_gemm_rows,
};
use crate::engine::ops::math::normal;
use crate::engine::ops::simd::vectorized;
use crate::engine::ops::weight::CpuWeight;

/// Rows of one task of the forward pass. They share the micro-panels that have to be transposed.
const FORWARD_ROWS: usize = 256;
/// Columns of each half that are computed at once, and gated while they are in the second-level cache.
const COLUMNS: usize = 2 * NR;
/// Most rows of one task of the backward pass.
const BACKWARD_ROWS: usize = 192;

/// The projection, with `a` and `gate` as two matrices.
pub(super) struct Projection {
    in_features: usize,
    out_features: usize,
    halves: [Half; 2],
}

struct Half {
    /// `W`, `(out_features, in_features)`.
    matrix: FrozenMatrix,
    bias: Vec<f32>,
}

impl Projection {
    /// - `weight`: `(2 · out_features, in_features)`
    /// - `bias`: `(2 · out_features,)`
    pub(super) fn new(
        weight: CpuWeight,
        bias: &Tensor,
        (out_features, in_features): (usize, usize),
    ) -> Result<Self> {
        let half = |index: usize| -> Result<Half> {
            Ok(Half {
                matrix: FrozenMatrix::new(weight.part(index, 2), out_features, in_features),
                bias: bias.narrow(0, index * out_features, out_features)?.to_vec1()?,
            })
        };
        Ok(Self { in_features, out_features, halves: [half(0)?, half(1)?] })
    }

    /// `in_features` and `out_features`.
    pub(super) fn features(&self) -> (usize, usize) {
        (self.in_features, self.out_features)
    }

    /// The result, of `shape`, and the factors of the gradients if they are asked for: `(rows, 2, out_features)`, for
    /// `a` and for `gate`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        shape: Vec<usize>,
        with_factors: bool,
    ) -> Result<(Tensor, Vec<f32>)> {
        let width = self.out_features;
        let x = x.contiguous()?;
        let x = values(&x)?;
        let rows = x.len() / self.in_features;
        let mut factors = Vec::new();
        let y = filled(rows * width, |y| {
            let y = SharedPtr::new(y);
            if with_factors {
                factors = filled(2 * rows * width, |factors| {
                    self.gate_rows(&x, rows, y, Some(SharedPtr::new(factors)));
                });
            } else {
                self.gate_rows(&x, rows, y, None);
            }
        });
        Ok((tensor(y, shape)?, factors))
    }

    /// Computes all rows of the result and of the factors.
    fn gate_rows(&self, x: &[f32], rows: usize, y: SharedPtr, factors: Option<SharedPtr>) {
        let width = self.out_features;
        let matrices = self.halves.each_ref().map(|half| half.matrix.forward_factor());
        let rights = matrices.each_ref().map(|factor| factor.right());
        let x = &*paired(x, rights[0]);
        let depth = rights[0].depth();
        par_blocks((rows, width), (FORWARD_ROWS, COLUMNS), |rows, columns| {
            let left = Left::rows(&x[rows.start * depth..rows.end * depth], depth);
            let mut products = [(); 2].map(|()| filled(rows.len() * COLUMNS, |_| {}));
            for column in columns.clone().step_by(COLUMNS) {
                let columns = column..columns.end.min(column + COLUMNS);
                let halves = self.halves.iter().zip(rights);
                for (product, (half, right)) in products.iter_mut().zip(halves) {
                    let epilogue = Epilogue { bias: Some(&half.bias), ..Epilogue::default() };
                    let place = product.as_mut_ptr().wrapping_sub(column);
                    // SAFETY: these columns of each row are inside `product`, which is exclusive.
                    unsafe { gemm_columns(left, right, epilogue, columns.clone(), place, COLUMNS) };
                }
                let [a, gate] = &products;
                for (index, row) in rows.clone().enumerate() {
                    // SAFETY: tasks have disjoint rows or columns, all inside `y` and `factors`.
                    let part = |place: *mut f32| unsafe {
                        std::slice::from_raw_parts_mut(place, columns.len())
                    };
                    let own = index * COLUMNS..index * COLUMNS + columns.len();
                    let y = part(y.at(row * width + column));
                    let (a, gate) = (&a[own.clone()], &gate[own]);
                    match factors {
                        None => gate_row(a, gate, y),
                        Some(factors) => {
                            let of_a = part(factors.at(2 * row * width + column));
                            let of_gate = part(factors.at((2 * row + 1) * width + column));
                            gate_row_and_factors(a, gate, y, of_a, of_gate);
                        }
                    }
                }
            }
        });
    }

    /// The gradient of `x`, of `shape`, from that of the result.
    pub(super) fn backward(
        &self,
        factors: &[f32],
        dy: &Tensor,
        shape: Vec<usize>,
    ) -> Result<Tensor> {
        let Self { in_features, out_features: width, .. } = *self;
        let dy = dy.contiguous()?;
        let dy = values(&dy)?;
        let rights = self.halves.each_ref().map(|half| half.matrix.backward_factor());
        let [a, gate] = rights.each_ref().map(|factor| factor.right());
        let rows = dy.len() / width;
        // Of nearly one size: a short last one would keep a thread waiting.
        let at_once = rows.div_ceil(rows.div_ceil(BACKWARD_ROWS).max(1)).max(1);
        let dx = filled(rows * in_features, |dx| {
            let tasks = dx
                .par_chunks_mut(at_once * in_features)
                .zip(dy.par_chunks(at_once * width))
                .zip(factors.par_chunks(2 * at_once * width));
            tasks.for_each(|((dx, dy), factors)| {
                let mut d_gate = Vec::new();
                let d_a = filled(dy.len(), |d_a| {
                    d_gate = filled(dy.len(), |d_gate| {
                        scale_rows(factors, dy, d_a, d_gate, width);
                    });
                });
                par_gemm_rows(&d_a, a, Epilogue::default(), dx);
                par_gemm_rows(
                    &d_gate,
                    gate,
                    Epilogue { accumulate: true, ..Epilogue::default() },
                    dx,
                );
            });
        });
        tensor(dx, shape)
    }
}

/// For how many rows the gradients of both halves are in memory at once.
pub(crate) fn backward_rows(rows: usize) -> usize {
    rows.min(BACKWARD_ROWS * rayon::current_num_threads())
}

vectorized! {
    fn gate_row(a: &[f32], gate: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(a).zip(gate).for_each(|((y, &a), &gate)| *y = a * (gate * normal(gate).0));
    }
}

vectorized! {
    fn gate_row_and_factors(a: &[f32], gate: &[f32], y: &mut [f32], of_a: &mut [f32], of_gate: &mut [f32]) {
        for ((((y, of_a), of_gate), &a), &gate) in y.iter_mut().zip(of_a).zip(of_gate).zip(a).zip(gate) {
            let (cdf, pdf) = normal(gate);
            *of_a = gate * cdf;
            *of_gate = a * (cdf + gate * pdf);
            *y = a * (gate * cdf);
        }
    }
}

vectorized! {
    fn scale_rows(factors: &[f32], dy: &[f32], d_a: &mut [f32], d_gate: &mut [f32], width: usize) {
        let rows = d_a.chunks_exact_mut(width).zip(d_gate.chunks_exact_mut(width)).zip(dy.chunks_exact(width));
        for (((d_a, d_gate), dy), factors) in rows.zip(factors.chunks_exact(2 * width)) {
            let (of_a, of_gate) = factors.split_at(width);
            d_a.iter_mut().zip(of_a).zip(dy).for_each(|((d_a, factor), dy)| *d_a = factor * dy);
            d_gate.iter_mut().zip(of_gate).zip(dy).for_each(|((d_gate, factor), dy)| *d_gate = factor * dy);
        }
    }
}
