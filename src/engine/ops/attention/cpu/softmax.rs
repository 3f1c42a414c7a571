//! The softmax of attention, over one block of keys after the other.

use crate::engine::ops::gemm::PANEL;
use crate::engine::ops::math::{exp2_clamped, exp2_of_negative};
use crate::engine::ops::simd::vectorized;

/// What turns a query's logits `x` of base 2 into probabilities: `2^(x − largest) · factor`.
///
/// Of many keys, others may have somewhat larger logits than those that `largest` is of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Softmax {
    pub(super) largest: f32,
    pub(super) factor: f32,
}

/// The largest sum of exponentials that further keys may have: its products with values are far from overflowing.
const MODERATE: f32 = (1u32 << 24) as f32;

/// The softmax of up to `N` queries over the keys that were seen so far.
pub(super) struct Running<const N: usize> {
    /// The largest logit of base 2, of those keys that it was looked for among.
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

    /// The same for further keys, with the largest logits of those before.
    ///
    /// Returns whether the results are of moderate size, as they are unless a logit is far above those before. If they are
    /// not, they have to be computed again, by [`Self::exponentials`]; nothing else has changed.
    pub(super) fn further_exponentials(
        &mut self,
        logits: &mut [f32],
        width: usize,
        base_2: f32,
    ) -> bool {
        further_exponentials(logits, base_2, &self.largest[..width], &mut self.sums[..width])
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
    for (panel, (sums, largest)) in sums_of_these.iter_mut().zip(&of_these).enumerate() {
        *sums = powers(rows, panel, largest, base_2, exp2_of_negative);
    }
    sums.iter_mut().zip(sums_of_these.as_flattened()).for_each(|(sum, x)| *sum += x);
}

vectorized! {
    fn further_exponentials(logits: &mut [f32], base_2: f32, largest: &[f32], sums: &mut [f32]) -> bool {
        match largest.len() / PANEL {
            1 => further_exponentials_of::<1>(logits, base_2, largest, sums),
            2 => further_exponentials_of::<2>(logits, base_2, largest, sums),
            _ => further_exponentials_of::<3>(logits, base_2, largest, sums),
        }
    }
}

/// [`Running::further_exponentials`] for `P` panels of columns.
#[inline(always)]
fn further_exponentials_of<const P: usize>(
    logits: &mut [f32],
    base_2: f32,
    largest: &[f32],
    sums: &mut [f32],
) -> bool {
    let (rows, _) = logits.as_chunks_mut::<PANEL>();
    let (rows, _) = rows.as_chunks_mut::<P>();
    let (largest, _) = largest.as_chunks::<PANEL>();
    let mut sums_of_these = [[0.0; PANEL]; P];
    for (panel, (sums, largest)) in sums_of_these.iter_mut().zip(largest).enumerate() {
        *sums = powers(rows, panel, largest, base_2, exp2_clamped);
    }
    let are_moderate = sums_of_these.as_flattened().iter().all(|sum| *sum <= MODERATE);
    if are_moderate {
        sums.iter_mut().zip(sums_of_these.as_flattened()).for_each(|(sum, x)| *sum += x);
    }
    are_moderate
}

/// Replaces logits of a panel of columns by `exp2(base_2 · logit − largest)`, and returns the sum of each column.
///
/// One panel after the other: the largest logits and sums of several, and the numbers that powers are computed with, are
/// more than AVX2 has registers.
#[inline(always)]
fn powers<const P: usize>(
    rows: &mut [[[f32; PANEL]; P]],
    panel: usize,
    largest: &[f32; PANEL],
    base_2: f32,
    exp2: impl Fn(f32) -> f32,
) -> [f32; PANEL] {
    let mut sums = [0.0; PANEL];
    for row in rows {
        for ((sum, largest), x) in sums.iter_mut().zip(largest).zip(&mut row[panel]) {
            *x = exp2(x.mul_add(base_2, -largest));
            *sum += *x;
        }
    }
    sums
}

vectorized! {
    /// Multiplies each column of `(rows, columns)` by its factor.
    fn scale_columns(rows: &mut [f32], factors: &[f32]) {
        for row in rows.chunks_exact_mut(factors.len()) {
            row.iter_mut().zip(factors).for_each(|(x, factor)| *x *= factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_logits_may_exceed_those_before_by_little() {
        let mut running = Running::<PANEL>::new();
        running.exponentials(&mut [1.0; 2 * PANEL], PANEL, 1.0);
        let mut logits = [11.0; PANEL];
        assert!(running.further_exponentials(&mut logits, PANEL, 1.0));
        assert!((logits[0] - 1024.0).abs() < 1e-3, "{logits:?}");
        let of_few = running.softmax(3);
        assert!((of_few.factor - 1.0 / 1026.0).abs() < 1e-9, "{of_few:?}");

        for far_above in [30.0, 130.0, 300.0, f32::NAN] {
            let mut logits = [1.0; PANEL];
            logits[3] = far_above;
            assert!(!running.further_exponentials(&mut logits, PANEL, 1.0), "{far_above}");
            assert_eq!(running.softmax(3), of_few);
        }
    }
}
