//! Gradients of blocks of keys that do not need the others, as in FlashAttention.

use std::iter;

use crate::engine::ops::attention::cpu::softmax::Softmax;
use crate::engine::ops::buffer::filled;
use crate::engine::ops::gemm::PANEL;
use crate::engine::ops::math::exp2_of_moderate;
use crate::engine::ops::simd::{in_vectors, vectorized};

/// What a block of keys needs to compute its gradients without the others.
///
/// The tokens are scaled beforehand, which takes fewer multiplications than to scale weights: with `E` the powers of the
/// logits and `f` the factors of the softmax, `P = f E`, `dV = Eᵀ (f dO)` and `dS = scale · E ∘ ((f dO) Vᵀ − f d)`.
pub(super) struct OnePass {
    /// `scale · Q` without gaps.
    pub(super) q: Vec<f32>,
    /// `f dO` without gaps.
    pub(super) d_o: Vec<f32>,
    /// `f d` with `d = rowsum(dO ∘ O)`, which is `rowsum(P ∘ dP)`, as in FlashAttention.
    pub(super) d: Vec<f32>,
}

impl OnePass {
    /// - `q`, `d_o`, `o`: tokens of `head_dim` floats that are `inner` apart
    pub(super) fn new(
        [q, d_o, o]: [&[f32]; 3],
        softmaxes: &[Softmax],
        scale: f32,
        [head_dim, inner]: [usize; 2],
    ) -> Self {
        let sizes = [head_dim, inner];
        let d_o = scaled(d_o, softmaxes.iter().map(|softmax| softmax.factor), sizes);
        let mut d = vec![0.0; softmaxes.len()];
        token_products(&mut d, &d_o, o, [head_dim, inner]);
        Self { q: scaled(q, iter::repeat_n(scale, softmaxes.len()), sizes), d_o, d }
    }
}

/// Each token times its factor, without gaps.
///
/// - `tokens`: `head_dim` floats each, `inner` apart
pub(super) fn scaled(
    tokens: &[f32],
    factors: impl ExactSizeIterator<Item = f32>,
    [head_dim, inner]: [usize; 2],
) -> Vec<f32> {
    filled(factors.len() * head_dim, |scaled| {
        let tokens = scaled.chunks_exact_mut(head_dim).zip(tokens.chunks(inner)).zip(factors);
        for ((scaled, token), factor) in tokens {
            scaled.iter_mut().zip(token).for_each(|(scaled, x)| *scaled = x * factor);
        }
    })
}

vectorized! {
    /// Replaces logits by `E`, the powers whose products with the factors of the softmax are `P`, and `dP` by
    /// `E ∘ (dP − d)`, which is `dS / scale` if `dP` and `d` are [scaled](OnePass).
    ///
    /// Both are `(queries, count)` in rows `stride` apart, and padded to a `width`. Beyond the keys, `dP` becomes 0.
    pub(super) fn softmax_gradient(logits: &mut [f32], d_weights: &mut [f32], sizes: [usize; 3], base_2: f32, softmaxes: &[Softmax], d: &[f32]) {
        let [count, width, stride] = sizes;
        let rows = logits.chunks_exact_mut(stride).zip(d_weights.chunks_exact_mut(stride));
        for (((row, ds), softmax), d) in rows.zip(softmaxes).zip(d) {
            let (row, ds) = (&mut row[..width], &mut ds[..width]);
            for (row, ds) in row.as_chunks_mut::<PANEL>().0.iter_mut().zip(ds.as_chunks_mut::<PANEL>().0) {
                for (x, ds) in row.iter_mut().zip(ds) {
                    *x = exp2_of_moderate(x.mul_add(base_2, -softmax.largest));
                    *ds = *x * (*ds - d);
                }
            }
            ds[count..].fill(0.0);
        }
    }
}

in_vectors! {
    /// `rowsum(dO ∘ O)`, which is `rowsum(P ∘ dP)`, as in FlashAttention.
    ///
    /// - `d_o`: tokens of `head_dim` floats; those of `o` are `inner` apart
    fn token_products<V>(d: &mut [f32], d_o: &[f32], o: &[f32], sizes: [usize; 2]) {
        let [head_dim, inner] = sizes;
        for (index, d) in d.iter_mut().enumerate() {
            let (d_o, o) = (&d_o[index * head_dim..][..head_dim], &o[index * inner..][..head_dim]);
            let mut sums = V::ZERO;
            for first in (0..head_dim).step_by(V::LANES) {
                let count = V::LANES.min(head_dim - first);
                // SAFETY: so many floats are left of both.
                unsafe {
                    let d_o = V::load_first(d_o.as_ptr().add(first), count);
                    sums = d_o.mul_add(V::load_first(o.as_ptr().add(first), count), sums);
                }
            }
            *d = sums.sum();
        }
    }
}
