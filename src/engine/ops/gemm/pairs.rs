//! Pairs of bf16 numbers, which stand in the places of floats.
//!
//! A pair holds two consecutive steps of a product's depth, the first one in its lower half. A product of pairs is then one
//! of floats over half the depth, with the same blocks, panels and tiles; the kernel alone takes them apart.
//!
//! Numbers are rounded to the nearest, ties to even. The CPU takes those that are too small for a normal number as zero.

use std::borrow::Cow;

use rayon::prelude::*;

use super::blocking::PANEL;
use super::factor::Right;
use super::numbers::Numbers;
use super::panels::pack_columns;
use crate::engine::ops::buffer::filled;
use crate::engine::ops::simd::vectorized;

/// Floats that one task turns into pairs.
const TASK: usize = 1 << 15;

/// Floats of a row-major left factor without gaps, as the right factor needs them.
pub(crate) fn paired<'a>(a: &'a [f32], right: Right<'_>) -> Cow<'a, [f32]> {
    match right.numbers() {
        Numbers::Floats => Cow::Borrowed(a),
        Numbers::Bf16Pairs => Cow::Owned(filled(a.len() / 2, |pairs| {
            let tasks = pairs.par_chunks_mut(TASK / 2).zip(a.par_chunks(TASK));
            tasks.for_each(|(pairs, a)| pair_columns(a, pairs));
        })),
    }
}

/// The pairs of `rows` of even length `depth`, which begin `stride` apart; they follow each other without gaps.
pub(crate) fn pair_rows(from: &[f32], stride: usize, rows: usize, depth: usize) -> Vec<f32> {
    filled(rows * depth / 2, |pairs| {
        for (pairs, from) in pairs.chunks_exact_mut((depth / 2).max(1)).zip(from.chunks(stride)) {
            pair_columns(&from[..depth], pairs);
        }
    })
}

/// The pairs of the steps of a right factor `(depth, width)`, in place: those of steps `2i` and `2i + 1` take the place of the
/// former, so that the rows of pairs are `2 · width` apart.
pub(crate) fn pair_steps(data: &mut [f32], width: usize) {
    for steps in data.chunks_mut(2 * width) {
        let (first, second) = steps.split_at_mut(width);
        interleave(first, second);
    }
}

/// The same for rows that are `stride` apart; the rows of pairs follow each other without gaps.
pub(crate) fn paired_steps(from: &[f32], stride: usize, depth: usize, width: usize) -> Vec<f32> {
    filled(depth.div_ceil(2) * width, |pairs| {
        for (index, pairs) in pairs.chunks_exact_mut(width).enumerate() {
            let step = |step: usize| &from[step * stride..][..width];
            pairs.copy_from_slice(step(2 * index));
            let is_whole = 2 * index + 1 < depth;
            interleave(pairs, if is_whole { step(2 * index + 1) } else { &[] });
        }
    })
}

/// One panel of the pairs of `(width, depth)` rows, as [`pack_columns`] packs their floats. The depth is even.
pub(crate) fn pack_paired_columns(
    source: &[f32],
    depth: usize,
    width: usize,
    index: usize,
    panel: &mut [f32],
) {
    let start = index * PANEL;
    let columns = PANEL.min(width - start);
    let pairs = pair_rows(&source[start * depth..], depth, columns, depth);
    pack_columns(&pairs, depth / 2, depth / 2, columns, 0, panel);
}

/// One panel of the pairs of `(depth, width)` rows, as [`pack_rows`](super::panels::pack_rows) packs their floats.
pub(crate) fn pack_paired_rows(
    source: &[f32],
    depth: usize,
    width: usize,
    index: usize,
    panel: &mut [f32],
) {
    let start = index * PANEL;
    let columns = PANEL.min(width - start);
    for (k, to) in panel.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        let step = |step: usize| match step < depth {
            true => &source[step * width + start..][..columns],
            false => &[],
        };
        to[..columns].copy_from_slice(step(2 * k));
        to[columns..].fill(0.0);
        interleave(to, step(2 * k + 1));
    }
}

vectorized! {
    /// Pair `i` has the numbers `2i` and `2i + 1`.
    fn pair_columns(from: &[f32], pairs: &mut [f32]) {
        for (pair, [first, second]) in pairs.iter_mut().zip(from.as_chunks::<2>().0) {
            *pair = pair_of(*first, *second);
        }
    }
}

vectorized! {
    /// Pair `i` has number `i` of each; what has no second one is paired with zero.
    fn interleave(first: &mut [f32], second: &[f32]) {
        let (both, alone) = first.split_at_mut(second.len().min(first.len()));
        both.iter_mut().zip(second).for_each(|(first, second)| *first = pair_of(*first, *second));
        alone.iter_mut().for_each(|first| *first = pair_of(*first, 0.0));
    }
}

#[inline(always)]
pub(super) fn pair_of(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(first) >> 16 | rounded(second) & 0xffff_0000)
}

/// The bits of the nearest bf16 number in the upper half, and whatever in the lower one.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    if x.is_nan() { bits | 0x0040_0000 } else { nearest }
}

/// Both numbers of a pair.
#[cfg(test)]
pub(super) fn halves(pair: f32) -> [f32; 2] {
    let bits = pair.to_bits();
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_rounded_to_the_nearest_and_ties_to_even() {
        // bf16 has eight bits of a fraction, one of them implied.
        for (x, nearest) in [
            (1.0, 1.0),
            (-3.5, -3.5),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 4.0 / 256.0),
            (1.0 + 1.1 / 256.0, 1.0 + 2.0 / 256.0),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (-0.0, -0.0),
        ] {
            let [first, second] = halves(pair_of(x, -x));
            assert_eq!(
                (first.to_bits(), second.to_bits()),
                (f32::to_bits(nearest), f32::to_bits(-nearest)),
                "{x}"
            );
        }
        let [first, second] = halves(pair_of(f32::from_bits(0x7fff_ffff), f32::NAN));
        assert!(first.is_nan() && second.is_nan());
    }

    #[test]
    fn steps_and_columns_are_paired_and_an_odd_step_stands_with_zero() {
        let numbers: Vec<f32> = (0..30).map(|i| i as f32).collect();
        let rows = pair_rows(&numbers, 10, 3, 4); // of ten columns, the first four
        let expected =
            [[0.0, 1.0], [2.0, 3.0], [10.0, 11.0], [12.0, 13.0], [20.0, 21.0], [22.0, 23.0]];
        assert_eq!(rows.iter().copied().map(halves).collect::<Vec<_>>(), expected);

        let expected = [[0.0, 10.0], [1.0, 11.0], [20.0, 0.0], [21.0, 0.0]];
        let steps = paired_steps(&numbers, 10, 3, 2); // of ten columns, the first two
        assert_eq!(steps.iter().copied().map(halves).collect::<Vec<_>>(), expected);
        let mut in_place = vec![0.0, 1.0, 10.0, 11.0, 20.0, 21.0];
        pair_steps(&mut in_place, 2);
        let rows = [in_place[0], in_place[1], in_place[4], in_place[5]];
        assert_eq!(rows.map(halves), expected);
    }
}
