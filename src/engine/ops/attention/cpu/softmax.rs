//! The softmax of attention and its gradient.

use crate::engine::ops::gemm::PANEL;
use crate::engine::ops::math::{exp2_of_negative, reduce_lanes};
use crate::engine::ops::simd::vectorized;

/// What turns a query's logits `x` of base 2 into probabilities: `2^(x − largest) · factor`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Softmax {
    pub(super) largest: f32,
    pub(super) factor: f32,
}

vectorized! {
    /// Replaces logits `(keys, width)`, one column per query, by `2^(base_2 · logit − largest)`. The factor, which
    /// makes them probabilities, is applied later.
    pub(super) fn exponentials(logits: &mut [f32], width: usize, base_2: f32, softmaxes: &mut [Softmax]) {
        match width / PANEL {
            1 => exponentials_of::<1>(logits, base_2, softmaxes),
            2 => exponentials_of::<2>(logits, base_2, softmaxes),
            _ => exponentials_of::<3>(logits, base_2, softmaxes),
        }
    }
}

/// [`exponentials`] for `P` panels of columns.
#[inline(always)]
fn exponentials_of<const P: usize>(logits: &mut [f32], base_2: f32, softmaxes: &mut [Softmax]) {
    let (rows, _) = logits.as_chunks_mut::<PANEL>();
    let (rows, _) = rows.as_chunks_mut::<P>();
    let mut largest = [[f32::MIN; PANEL]; P];
    for row in &*rows {
        for (largest, row) in largest.iter_mut().zip(row) {
            for (largest, &x) in largest.iter_mut().zip(row) {
                *largest = if x > *largest { x } else { *largest };
            }
        }
    }
    largest.iter_mut().flatten().for_each(|largest| *largest *= base_2);
    let mut sums = [[0.0; PANEL]; P];
    for row in rows {
        for ((sums, largest), row) in sums.iter_mut().zip(&largest).zip(row) {
            for ((sum, largest), x) in sums.iter_mut().zip(largest).zip(row) {
                *x = exp2_of_negative(x.mul_add(base_2, -largest));
                *sum += *x;
            }
        }
    }
    let columns = largest.as_flattened().iter().zip(sums.as_flattened());
    for (softmax, (&largest, sum)) in softmaxes.iter_mut().zip(columns) {
        *softmax = Softmax { largest, factor: 1.0 / sum };
    }
}

vectorized! {
    /// Replaces logits by `P`, and `dP` by `dS = scale · P ∘ (dP − d)` with `d = rowsum(P ∘ dP)`.
    ///
    /// Both are `(queries, width)`. Beyond the keys, `dP` is 0.
    pub(super) fn softmax_gradient(logits: &mut [f32], d_weights: &mut [f32], width: usize, factors: (f32, f32), softmaxes: &[Softmax]) {
        let (base_2, scale) = factors;
        let rows = logits.chunks_exact_mut(width).zip(d_weights.chunks_exact_mut(width));
        for ((row, ds), softmax) in rows.zip(softmaxes) {
            let Softmax { largest, factor } = *softmax;
            let mut sums = [0.0; PANEL];
            for (row, dp) in row.as_chunks_mut::<PANEL>().0.iter_mut().zip(ds.as_chunks::<PANEL>().0) {
                for ((x, dp), sum) in row.iter_mut().zip(dp).zip(&mut sums) {
                    let p = factor * exp2_of_negative(x.mul_add(base_2, -largest));
                    *sum += p * dp;
                    *x = p;
                }
            }
            let d = reduce_lanes(sums, |a, b| a + b);
            ds.iter_mut().zip(&*row).for_each(|(ds, p)| *ds = scale * p * (*ds - d));
        }
    }
}
