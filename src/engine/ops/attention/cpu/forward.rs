//! The forward pass: `softmax(Q Kᵀ · scale + bias) V`, with queries in the lanes of a register.

use std::borrow::Cow;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::softmax::{Running, Softmax};
use super::{Attention, Sizes, row_major, store_transposed, tokens, transposed_tokens};
use crate::engine::ops::buffer::{SharedPtr, filled, tensor, values};
use crate::engine::ops::gemm::{
    Left, NR, Numbers, PANEL, Panels, PanelsView, Right, gemm_in_cache, pair_rows, pair_steps,
    paired_steps,
};

/// Queries of one block.
const QUERIES: usize = NR;
/// Most keys of one block: its weights stay in the nearest caches from their logits to their sums.
///
/// Images whose attention has no more keys, `tiny`'s among them, have the same bytes as before there were blocks.
const KEYS: usize = 256;

impl Attention {
    /// The result, and what turns logits into probabilities, `(batch, heads, queries)`.
    pub(crate) fn forward(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
    ) -> Result<(Tensor, Vec<Softmax>)> {
        let sizes = self.sizes;
        let Sizes { batch, queries, keys, inner, heads, head_dim } = sizes;
        let (q, k, v) = (values(query)?, values(key)?, values(value)?);
        let (q, k, v): (&[f32], &[f32], &[f32]) = (&q, &k, &v);
        let mut softmaxes = vec![Softmax::default(); batch * heads * queries];
        // Blocks of nearly one size: a short last one would cost as much as a whole one.
        let block_size = queries.div_ceil(queries.div_ceil(QUERIES).max(1)).next_multiple_of(PANEL);
        let keys_at_once = keys.div_ceil(keys.div_ceil(KEYS).max(1)).max(1);
        let keys_at_once = match self.numbers {
            Numbers::Floats => keys_at_once,
            Numbers::Bf16Pairs => keys_at_once.next_multiple_of(2),
        };
        let out = filled(q.len(), |out| {
            let shared = SharedPtr::new(out);
            softmaxes.par_chunks_mut(queries).enumerate().for_each(|(task, softmaxes)| {
                let q = sizes.head(q, task, queries);
                let [k, v] = [k, v].map(|x| sizes.head(x, task, keys));
                let factors = KeysAndValues::new(k, v, sizes, self.numbers);
                softmaxes.par_chunks_mut(block_size).enumerate().for_each(|(block, softmaxes)| {
                    let (first, count) = (block * block_size, softmaxes.len());
                    let width = count.next_multiple_of(PANEL);
                    let q = pack_queries(&q[first * inner..], count, sizes, self.numbers);
                    let q = PanelsView { width, ..q.view() }; // zeros beyond the queries
                    let mut running = Running::<QUERIES>::new();
                    let mut weights = filled(keys_at_once * width, |_| {});
                    let out = filled(head_dim * width, |out| {
                        for start in (0..keys).step_by(keys_at_once) {
                            let count = keys_at_once.min(keys - start);
                            let weights = &mut weights[..count * width];
                            let compute_logits = |logits: &mut [f32]| {
                                let k = factors.keys(start, count);
                                gemm_in_cache(k, Right::Packed(q), false, logits, width); // K Qᵀ
                                if let Some(bias) = &self.bias {
                                    let bias = &bias[start * queries + first..];
                                    self.add_bias_by_key(logits, width, bias);
                                }
                            };
                            compute_logits(weights);
                            let base_2 = self.base_2();
                            if start == 0 {
                                running.exponentials(weights, width, base_2);
                            } else if !running.further_exponentials(weights, width, base_2) {
                                compute_logits(weights);
                                running.exponentials(weights, width, base_2);
                                running.rescale(out, width);
                            }
                            let weights = weights_factor(weights, width, self.numbers);
                            gemm_in_cache(factors.values(start), weights, start > 0, out, width);
                        }
                    });
                    let mut factors = [0.0; QUERIES];
                    for (index, softmax) in softmaxes.iter_mut().enumerate() {
                        *softmax = running.softmax(index);
                        factors[index] = softmax.factor;
                    }
                    let place = shared.at(sizes.offset(task, queries, first));
                    // SAFETY: each block writes its own queries of its own head, inside the result.
                    unsafe { store_transposed(&out, width, Some(&factors), count, place, inner) };
                });
            });
        });
        Ok((tensor(out, query.shape())?, softmaxes))
    }

    /// Scales the logits `(keys, width)` of some queries and adds their bias.
    fn add_bias_by_key(&self, logits: &mut [f32], width: usize, bias: &[f32]) {
        for (row, bias) in logits.chunks_exact_mut(width).zip(bias.chunks(self.sizes.queries)) {
            self.add_to_row(row, bias.iter());
        }
    }
}

/// The keys and values of one head, as the left factors of the forward pass.
struct KeysAndValues<'a> {
    /// A row for each key, these floats apart.
    keys: Cow<'a, [f32]>,
    key_stride: usize,
    /// A row for each value or pair of values, these floats apart.
    values: Cow<'a, [f32]>,
    value_stride: usize,
    head_dim: usize,
    numbers: Numbers,
}

impl<'a> KeysAndValues<'a> {
    fn new(keys: &'a [f32], values: &'a [f32], sizes: Sizes, numbers: Numbers) -> Self {
        let Sizes { keys: count, inner, head_dim, .. } = sizes;
        let (keys, key_stride, values, value_stride) = match numbers {
            Numbers::Floats => (Cow::Borrowed(keys), inner, Cow::Borrowed(values), inner),
            Numbers::Bf16Pairs => (
                Cow::Owned(pair_rows(keys, inner, count, head_dim)),
                head_dim / 2,
                Cow::Owned(paired_steps(values, inner, count, head_dim)),
                head_dim,
            ),
        };
        Self { keys, key_stride, values, value_stride, head_dim, numbers }
    }

    /// `K` of `count` keys from `start` on.
    fn keys(&self, start: usize, count: usize) -> Left<'_> {
        tokens(&self.keys[start * self.key_stride..], count, self.key_stride)
    }

    /// `Vᵀ` from value `start` on, which is even for pairs.
    fn values(&self, start: usize) -> Left<'_> {
        let row = match self.numbers {
            Numbers::Floats => start,
            Numbers::Bf16Pairs => start / 2,
        };
        let values = &self.values[row * self.value_stride..];
        transposed_tokens(values, self.head_dim, self.value_stride)
    }
}

/// `Qᵀ` of `count` queries, as packed panels.
fn pack_queries(queries: &[f32], count: usize, sizes: Sizes, numbers: Numbers) -> Panels {
    let Sizes { inner, head_dim, .. } = sizes;
    match numbers {
        Numbers::Floats => Panels::from_columns(queries, inner, head_dim, count),
        Numbers::Bf16Pairs => {
            let pairs = pair_rows(queries, inner, count, head_dim);
            Panels::from_columns(&pairs, head_dim / 2, head_dim / 2, count).of_pairs()
        }
    }
}

/// The weights `(keys, width)` as a right factor. They are overwritten by their pairs.
fn weights_factor(weights: &mut [f32], width: usize, numbers: Numbers) -> Right<'_> {
    match numbers {
        Numbers::Floats => row_major(weights, width, width),
        Numbers::Bf16Pairs => {
            pair_steps(weights, width);
            Right::Rows { data: weights, stride: 2 * width, width, numbers }
        }
    }
}
