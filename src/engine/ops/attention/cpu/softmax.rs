//! The softmax of attention, over one block of keys after the other.

use crate::engine::ops::gemm::PANEL;
use crate::engine::ops::math::exp2_of_negative;
use crate::engine::ops::simd::vectorized;

/// What turns a query's logits `x` of base 2 into probabilities: `2^(x − largest) · factor`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Softmax {
    pub(super) largest: f32,
    pub(super) factor: f32,
}

/// The softmax of up to `N` queries over the keys that were seen so far.
pub(super) struct Running<const N: usize> {
    /// The largest logit of base 2.
    largest: [f32; N],
    /// The sum of `2^(x − largest)`.
    sums: [f32; N],
    /// What the newest keys have changed: `2^(largest before − largest)`.
    rescale: [f32; N],
}

impl<const N: usize> Running<N> {
    pub(super) fn new() -> Self {
        Self { largest: [f32::MIN; N], sums: [0.0; N], rescale: [1.0; N] }
    }

    /// Replaces logits `(keys, width)` of further keys, one column per query, by `2^(base_2 · logit − largest)`.
    ///
    /// `width` is a multiple of [`PANEL`]. What was summed with the results for earlier keys has to be
    /// [rescaled](Self::rescale).
    pub(super) fn exponentials(&mut self, logits: &mut [f32], width: usize, base_2: f32) {
        exponentials(
            logits,
            base_2,
            &mut self.largest[..width],
            &mut self.sums[..width],
            &mut self.rescale[..width],
        );
    }

    /// Makes `(rows, width)` sums with earlier results fit the newest ones.
    pub(super) fn rescale(&self, sums: &mut [f32], width: usize) {
        let factors = &self.rescale[..width];
        if factors.iter().any(|factor| *factor < 1.0) {
            scale_columns(sums, factors);
        }
    }

    /// The softmax of query `index`.
    pub(super) fn softmax(&self, index: usize) -> Softmax {
        Softmax { largest: self.largest[index], factor: 1.0 / self.sums[index] }
    }
}

vectorized! {
    fn exponentials(logits: &mut [f32], base_2: f32, largest: &mut [f32], sums: &mut [f32], rescale: &mut [f32]) {
        match largest.len() / PANEL {
            1 => exponentials_of::<1>(logits, base_2, largest, sums, rescale),
            2 => exponentials_of::<2>(logits, base_2, largest, sums, rescale),
            _ => exponentials_of::<3>(logits, base_2, largest, sums, rescale),
        }
    }
}

/// [`Running::exponentials`] for `P` panels of columns.
#[inline(always)]
fn exponentials_of<const P: usize>(
    logits: &mut [f32],
    base_2: f32,
    largest: &mut [f32],
    sums: &mut [f32],
    rescale: &mut [f32],
) {
    let (rows, _) = logits.as_chunks_mut::<PANEL>();
    let (rows, _) = rows.as_chunks_mut::<P>();
    let mut of_these = [[f32::MIN; PANEL]; P];
    for row in &*rows {
        for (largest, row) in of_these.iter_mut().zip(row) {
            for (largest, &x) in largest.iter_mut().zip(row) {
                *largest = if x > *largest { x } else { *largest };
            }
        }
    }
    let columns = largest.iter_mut().zip(sums.iter_mut()).zip(rescale);
    for (((largest, sum), rescale), of_these) in columns.zip(of_these.as_flattened_mut()) {
        let before = *largest;
        *largest = before.max(*of_these * base_2);
        *of_these = *largest;
        *rescale = exp2_of_negative(before - *largest);
        *sum *= *rescale;
    }
    let mut sums_of_these = [[0.0; PANEL]; P];
    for row in rows {
        for ((sums, largest), row) in sums_of_these.iter_mut().zip(&of_these).zip(row) {
            for ((sum, largest), x) in sums.iter_mut().zip(largest).zip(row) {
                *x = exp2_of_negative(x.mul_add(base_2, -largest));
                *sum += *x;
            }
        }
    }
    sums.iter_mut().zip(sums_of_these.as_flattened()).for_each(|(sum, x)| *sum += x);
}

vectorized! {
    /// Multiplies each column of `(rows, columns)` by its factor.
    fn scale_columns(rows: &mut [f32], factors: &[f32]) {
        for row in rows.chunks_exact_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
        }
    }
}
