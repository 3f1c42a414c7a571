//! The gradients of query, key and value, with keys in the lanes of a register.

mod dots;
mod one_pass;

use std::iter;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use self::dots::{Products, Rows};
use self::one_pass::{OnePass, scaled};
use super::softmax::Softmax;
use super::{Attention, Sizes, row_major, store_transposed, tokens, transposed_tokens};
use crate::engine::ops::buffer::{SharedPtr, filled, tensor, values};
use crate::engine::ops::gemm::{PANEL, Panels, PanelsView, Right, gemm_in_cache, gemm_in_cache_to};
use crate::engine::ops::math::{exp2_of_negative, reduce_lanes};
use crate::engine::ops::simd::vectorized;

/// Queries of one block.
const QUERIES: usize = 64;
/// Most keys of one block, whose weights and their gradients stay in the second-level cache.
///
/// Trainings whose attention has no more keys, `tiny`'s among them, have the same bytes as before there were blocks.
pub(crate) const KEYS: usize = 256;

impl Attention {
    /// Whether [`Self::backward`] needs the result: where there are more keys than one block has.
    pub(crate) fn keeps_its_result(&self) -> bool {
        self.sizes.keys > KEYS
    }

    /// The gradients of query, key and value, from these, what [`Self::forward`] has returned and the gradient of the
    /// result.
    ///
    /// - `result`: only if [`Self::keeps_its_result`]
    pub(crate) fn backward(
        &self,
        [query, key, value]: [&Tensor; 3],
        (result, softmaxes): (Option<&Tensor>, &[Softmax]),
        gradient: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let sizes = self.sizes;
        let Sizes { batch, queries, keys, inner, heads, head_dim } = sizes;
        let (q, k, v) = (values(query)?, values(key)?, values(value)?);
        let (q, k, v): (&[f32], &[f32], &[f32]) = (&q, &k, &v);
        let (o, d_o) = (result.map(values).transpose()?, values(gradient)?);
        let (o, d_o): (Option<&[f32]>, &[f32]) = (o.as_deref(), &d_o);
        let [mut d_q, mut d_k, mut d_v] =
            [q.len(), k.len(), v.len()].map(|len| filled(len, |_| {}));
        let [to_q, to_k, to_v] =
            [&mut d_q, &mut d_k, &mut d_v].map(|values| SharedPtr::new(values));
        let keys_at_once = keys.div_ceil(keys.div_ceil(KEYS)).next_multiple_of(PANEL);
        // Rows of an odd number of panels. Were they a power of two apart, a column of them would share a few places of
        // the first-level cache.
        let stride = ((keys_at_once / PANEL) | 1) * PANEL;
        (0..batch * heads).into_par_iter().for_each(|task| {
            let [q, d_o] = [q, d_o].map(|x| sizes.head(x, task, queries));
            let [k, v] = [k, v].map(|x| sizes.head(x, task, keys));
            let softmaxes = &softmaxes[task * queries..][..queries];
            let one_pass = o.map(|o| {
                let o = sizes.head(o, task, queries);
                OnePass::new([q, d_o, o], softmaxes, self.scale, [head_dim, inner])
            });
            // What dKᵀ, dP and dVᵀ are products of, and how far its tokens are apart.
            let (q_for_d_k, d_o, token) = match &one_pass {
                Some(scaled) => (&*scaled.q, &*scaled.d_o, head_dim),
                None => (q, d_o, inner),
            };
            let [mut p, mut d_p] = [(); 2].map(|()| filled(QUERIES * stride, |_| {}));
            for start in (0..keys).step_by(keys_at_once) {
                let count = keys_at_once.min(keys - start);
                let width = count.next_multiple_of(PANEL);
                let [k, v] = [k, v].map(|x| &x[start * inner..]);
                // Kᵀ and Vᵀ, with zeros beyond the keys.
                let columns = [k, v].map(|x| Panels::from_columns(x, inner, head_dim, count));
                let columns = columns.each_ref().map(|x| PanelsView { width, ..x.view() });
                let [k_columns, v_columns] = columns.map(Right::Packed);
                // K, unless dQ is computed by inner products.
                let k_rows = match one_pass {
                    None => Some(Panels::from_rows(k, inner, count, head_dim)),
                    Some(_) if dots::are_faster(head_dim) => None,
                    Some(_) => {
                        let k = scaled(k, iter::repeat_n(self.scale, count), [head_dim, inner]);
                        Some(Panels::from_rows(&k, head_dim, count, head_dim))
                    }
                };
                let [mut d_k, mut d_v] = [(); 2].map(|()| filled(head_dim * width, |_| {})); // transposed
                for first in (0..queries).step_by(QUERIES) {
                    let rows = QUERIES.min(queries - first);
                    let (p, d_p) = (&mut p[..rows * stride], &mut d_p[..rows * stride]);
                    let q = &q[first * inner..];
                    let [q_for_d_k, d_o] = [q_for_d_k, d_o].map(|x| &x[first * token..]);
                    gemm_in_cache(tokens(q, rows, inner), k_columns, false, p, stride); // Q Kᵀ
                    gemm_in_cache(tokens(d_o, rows, token), v_columns, false, d_p, stride); // dO Vᵀ
                    self.add_bias_by_query(p, stride, first, start);
                    let (base_2, softmaxes) = (self.base_2(), &softmaxes[first..]);
                    match &one_pass {
                        Some(OnePass { d, .. }) => {
                            let (sizes, d) = ([count, width, stride], &d[first..]);
                            one_pass::softmax_gradient(p, d_p, sizes, base_2, softmaxes, d);
                        }
                        None => {
                            let (sizes, factors) = ([width, stride], (base_2, self.scale));
                            softmax_gradient(p, d_p, sizes, factors, softmaxes);
                        }
                    }

                    // dVᵀ += dOᵀ P, dKᵀ += Qᵀ dS, dQ += dS K
                    let accumulate = first > 0;
                    let d_o = transposed_tokens(d_o, head_dim, token);
                    gemm_in_cache(d_o, row_major(p, width, stride), accumulate, &mut d_v, width);
                    let q = transposed_tokens(q_for_d_k, head_dim, token);
                    gemm_in_cache(q, row_major(d_p, width, stride), accumulate, &mut d_k, width);
                    let place = to_q.at(sizes.offset(task, queries, first));
                    // SAFETY: the task alone writes this head of this element, inside the gradient.
                    unsafe {
                        match &k_rows {
                            Some(k) => {
                                let (d_s, k) = (tokens(d_p, rows, stride), Right::Packed(k.view()));
                                gemm_in_cache_to(d_s, k, start > 0, place, inner);
                            }
                            None => {
                                let d_s = Rows { values: d_p, stride };
                                let d_q = Products { place, stride: inner, accumulate: start > 0 };
                                dots::multiply(d_s, columns[0], self.scale, d_q);
                            }
                        }
                    }
                }
                for (from, to) in [(d_k, to_k), (d_v, to_v)] {
                    let place = to.at(sizes.offset(task, keys, start));
                    // SAFETY: the task alone writes this head of this element, inside the gradient.
                    unsafe { store_transposed(&from, width, None, count, place, inner) };
                }
            }
        });
        Ok([tensor(d_q, query.shape())?, tensor(d_k, key.shape())?, tensor(d_v, value.shape())?])
    }

    /// Scales logits and adds their bias. There is a row for each query from `first` on, `stride` floats after the one
    /// before, with a logit for each key from `start` on.
    fn add_bias_by_query(&self, logits: &mut [f32], stride: usize, first: usize, start: usize) {
        let Some(bias) = &self.bias else { return };
        let queries = self.sizes.queries;
        for (index, row) in logits.chunks_exact_mut(stride).enumerate() {
            self.add_to_row(row, bias[start * queries + first + index..].iter().step_by(queries));
        }
    }
}

vectorized! {
    /// Replaces logits by `P`, and `dP` by `dS = scale · P ∘ (dP − d)` with `d = rowsum(P ∘ dP)`.
    ///
    /// Both are `(queries, width)`, in rows `stride` apart. Beyond the keys, `dP` is 0.
    fn softmax_gradient(logits: &mut [f32], d_weights: &mut [f32], sizes: [usize; 2], factors: (f32, f32), softmaxes: &[Softmax]) {
        let [width, stride] = sizes;
        let (base_2, scale) = factors;
        let rows = logits.chunks_exact_mut(stride).zip(d_weights.chunks_exact_mut(stride));
        for ((row, ds), softmax) in rows.zip(softmaxes) {
            let (row, ds) = (&mut row[..width], &mut ds[..width]);
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
