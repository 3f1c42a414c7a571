//! Attention on the CPU.

mod softmax;

use std::borrow::Cow;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

pub(crate) use self::softmax::Softmax;
use self::softmax::{Running, softmax_gradient};
use crate::engine::ops::buffer::{SharedPtr, filled, tensor, values};
use crate::engine::ops::gemm::{
    Epilogue, Left, NR, Numbers, PANEL, Panels, PanelsView, Right, gemm, gemm_columns, pair_rows,
    pair_steps, paired_steps, transpose,
};
use crate::engine::ops::precision::Precision;
use crate::engine::ops::simd::vectorized;

/// Queries of one block.
///
/// In the forward pass the lanes of a register hold queries, in the backward pass keys: never the channels of a head,
/// which may be narrower than a register (ADR 0006).
const QUERIES: usize = NR;
/// Most keys of one block: its weights stay in the nearest caches from their logits to their sums.
///
/// Images whose attention has no more keys, `tiny`'s among them, have the same bytes as before there were blocks.
const KEYS: usize = 256;
const BACKWARD_QUERIES: usize = 64;

/// The least bias. It keeps the logit of a masked key finite, whatever it is multiplied by.
const MIN_BIAS: f32 = -1e30;

/// One call of [`attention`](super::attention).
pub(super) struct Attention {
    sizes: Sizes,
    scale: f32,
    /// `(keys, queries)`.
    bias: Option<Vec<f32>>,
    /// What the products of the forward pass are of.
    numbers: Numbers,
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    inner: usize,
    heads: usize,
    head_dim: usize,
}

impl Sizes {
    fn of(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize) -> Result<Self> {
        let (batch, queries, inner) = query.dims3()?;
        let (_, keys, _) = key.dims3()?;
        if key.dims() != [batch, keys, inner]
            || value.dims() != key.dims()
            || !inner.is_multiple_of(heads)
        {
            bail!("{heads} heads from {:?}, {:?} and {:?}", query.dims(), key.dims(), value.dims());
        }
        Ok(Self { batch, queries, keys, inner, heads, head_dim: inner / heads })
    }

    /// The queries, keys or values of one head of one batch element. Tokens are `inner` apart.
    ///
    /// - `task`: the index of a head of an element
    fn head(self, values: &[f32], task: usize, tokens: usize) -> &[f32] {
        let (row, head) = (task / self.heads, task % self.heads);
        &values[row * tokens * self.inner + head * self.head_dim..(row + 1) * tokens * self.inner]
    }

    /// Where token `at` of the same begins.
    fn offset(self, task: usize, tokens: usize, at: usize) -> usize {
        let (row, head) = (task / self.heads, task % self.heads);
        (row * tokens + at) * self.inner + head * self.head_dim
    }
}

/// `count` tokens of a head, as the rows of a left factor.
fn tokens(values: &[f32], count: usize, inner: usize) -> Left<'_> {
    Left::Strided { data: values, rows: count, row_stride: inner, depth_stride: 1 }
}

/// The transpose: a row for each of the `head_dim` channels.
fn transposed_tokens(values: &[f32], head_dim: usize, inner: usize) -> Left<'_> {
    Left::Strided { data: values, rows: head_dim, row_stride: 1, depth_stride: inner }
}

/// A row-major right factor whose rows are `stride` apart.
fn row_major(data: &[f32], width: usize, stride: usize) -> Right<'_> {
    Right::Rows { data, stride, width, numbers: Numbers::Floats }
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

impl Attention {
    /// - `bias`: `(queries, keys)`
    pub(super) fn new(
        [query, key, value]: [&Tensor; 3],
        heads: usize,
        scale: f64,
        bias: Option<&Tensor>,
        precision: Precision,
    ) -> Result<Self> {
        let bias = bias.map(|bias| bias.t()?.flatten_all()?.to_vec1::<f32>()).transpose()?;
        let sizes = Sizes::of(query, key, value, heads)?;
        let numbers = match precision {
            Precision::Bf16 if sizes.head_dim.is_multiple_of(2) => Numbers::Bf16Pairs,
            _ => Numbers::Floats,
        };
        Ok(Self { sizes, scale: scale as f32, bias, numbers })
    }

    /// The result, and what turns logits into probabilities, `(batch, heads, queries)`.
    pub(super) fn forward(
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
                            let k = factors.keys(start, count);
                            gemm(k, Right::Packed(q), Epilogue::default(), weights, width); // K Qᵀ
                            if let Some(bias) = &self.bias {
                                let bias = &bias[start * queries + first..];
                                self.add_bias_by_key(weights, width, bias);
                            }
                            running.exponentials(weights, width, self.base_2());
                            let epilogue =
                                Epilogue { accumulate: start > 0, ..Epilogue::default() };
                            if epilogue.accumulate {
                                running.rescale(out, width);
                            }
                            let weights = weights_factor(weights, width, self.numbers);
                            gemm(factors.values(start), weights, epilogue, out, width);
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

    /// The factor from products to logits of base 2, whose powers take fewer steps than those of e.
    fn base_2(&self) -> f32 {
        match self.bias {
            None => self.scale * std::f32::consts::LOG2_E,
            Some(_) => std::f32::consts::LOG2_E,
        }
    }

    /// Scales the logits `(keys, width)` of some queries and adds their bias.
    fn add_bias_by_key(&self, logits: &mut [f32], width: usize, bias: &[f32]) {
        for (row, bias) in logits.chunks_exact_mut(width).zip(bias.chunks(self.sizes.queries)) {
            self.add_to_row(row, bias.iter());
        }
    }

    /// The same for logits with one row for each query from `first` on, `stride` apart.
    fn add_bias_by_query(&self, logits: &mut [f32], stride: usize, first: usize) {
        let Some(bias) = &self.bias else { return };
        for (index, row) in logits.chunks_exact_mut(stride).enumerate() {
            self.add_to_row(row, bias[first + index..].iter().step_by(self.sizes.queries));
        }
    }

    /// Scales a row and adds the bias. Padding beyond the bias is only scaled.
    fn add_to_row<'a>(&self, row: &mut [f32], bias: impl Iterator<Item = &'a f32>) {
        row.iter_mut().for_each(|x| *x *= self.scale);
        row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias.max(MIN_BIAS));
    }

    /// The gradients of query, key and value, from these, the gradient of the result and the softmaxes of
    /// [`Self::forward`].
    pub(super) fn backward(
        &self,
        [query, key, value, gradient]: [&Tensor; 4],
        softmaxes: &[Softmax],
    ) -> Result<[Tensor; 3]> {
        let sizes = self.sizes;
        let Sizes { batch, queries, keys, inner, heads, head_dim } = sizes;
        let (q, k, v) = (values(query)?, values(key)?, values(value)?);
        let (q, k, v): (&[f32], &[f32], &[f32]) = (&q, &k, &v);
        let d_o = values(gradient)?;
        let d_o: &[f32] = &d_o;
        let [mut d_q, mut d_k, mut d_v] =
            [q.len(), k.len(), v.len()].map(|len| filled(len, |_| {}));
        let [to_q, to_k, to_v] =
            [&mut d_q, &mut d_k, &mut d_v].map(|values| SharedPtr::new(values));
        let width = keys.next_multiple_of(PANEL);
        // Rows of an odd number of panels. Were they a power of two apart, as many images' tokens are, a column of them
        // would share a few places of the first-level cache.
        let stride = if (width / PANEL).is_multiple_of(2) { width + PANEL } else { width };
        (0..batch * heads).into_par_iter().for_each(|task| {
            let [q, d_o] = [q, d_o].map(|x| sizes.head(x, task, queries));
            let [k, v] = [k, v].map(|x| sizes.head(x, task, keys));
            // Kᵀ and Vᵀ, with zeros beyond the keys.
            let columns = [k, v].map(|x| Panels::from_columns(x, inner, head_dim, keys));
            let [k_columns, v_columns] =
                columns.each_ref().map(|x| Right::Packed(PanelsView { width, ..x.view() }));
            let k_rows = Panels::from_rows(k, inner, keys, head_dim); // K
            let [mut weights, mut d_weights] =
                [(); 2].map(|()| filled(BACKWARD_QUERIES * stride, |_| {}));
            let [mut d_k, mut d_v] = [(); 2].map(|()| filled(head_dim * width, |_| {})); // transposed
            for first in (0..queries).step_by(BACKWARD_QUERIES) {
                let rows = BACKWARD_QUERIES.min(queries - first);
                let (p, d_p) = (&mut weights[..rows * stride], &mut d_weights[..rows * stride]);
                let [q, d_o] = [q, d_o].map(|x| &x[first * inner..]);
                gemm(tokens(q, rows, inner), k_columns, Epilogue::default(), p, stride); // Q Kᵀ
                gemm(tokens(d_o, rows, inner), v_columns, Epilogue::default(), d_p, stride); // dO Vᵀ
                self.add_bias_by_query(p, stride, first);
                let softmaxes = &softmaxes[task * queries + first..][..rows];
                softmax_gradient(p, d_p, [width, stride], (self.base_2(), self.scale), softmaxes);

                // dVᵀ += dOᵀ P, dKᵀ += Qᵀ dS, dQ = dS K
                let epilogue = Epilogue { accumulate: first > 0, ..Epilogue::default() };
                gemm(
                    transposed_tokens(d_o, head_dim, inner),
                    row_major(p, width, stride),
                    epilogue,
                    &mut d_v,
                    width,
                );
                gemm(
                    transposed_tokens(q, head_dim, inner),
                    row_major(d_p, width, stride),
                    epilogue,
                    &mut d_k,
                    width,
                );
                let d_s = Left::Strided { data: &*d_p, rows, row_stride: stride, depth_stride: 1 };
                let place = to_q.at(sizes.offset(task, queries, first));
                // SAFETY: the task alone writes this head of this element, inside the gradient.
                unsafe {
                    let k = Right::Packed(k_rows.view());
                    gemm_columns(d_s, k, Epilogue::default(), 0..head_dim, place, inner);
                }
            }
            for (from, to) in [(d_k, to_k), (d_v, to_v)] {
                let place = to.at(sizes.offset(task, keys, 0));
                // SAFETY: the task alone writes this head of this element, inside the gradient.
                unsafe { store_transposed(&from, width, None, keys, place, inner) };
            }
        });
        Ok([tensor(d_q, query.shape())?, tensor(d_k, key.shape())?, tensor(d_v, value.shape())?])
    }
}

vectorized! {
    /// Writes the transpose of `rows`, `(head_dim, width)`: its first `count` columns, each times its factor, become
    /// tokens of `head_dim` floats that are `inner` apart.
    ///
    /// # Safety
    /// The tokens from `to` on must be valid, and nothing else may access them.
    unsafe fn store_transposed(rows: &[f32], width: usize, factors: Option<&[f32]>, count: usize, to: *mut f32, inner: usize) {
        let head_dim = rows.len() / width;
        let mut square = [[0.0; PANEL]; PANEL];
        let mut transposed = [[0.0; PANEL]; PANEL];
        for first in (0..head_dim).step_by(PANEL) {
            let part = PANEL.min(head_dim - first);
            for column in (0..count).step_by(PANEL) {
                for (to, from) in square.iter_mut().zip(rows[first * width..].chunks_exact(width)) {
                    to.copy_from_slice(&from[column..column + PANEL]);
                    if let Some(factors) = factors {
                        to.iter_mut().zip(&factors[column..]).for_each(|(x, factor)| *x *= factor);
                    }
                }
                transpose(square.as_flattened(), PANEL, PANEL, &mut transposed);
                for (index, token) in transposed.iter().enumerate().take(count - column) {
                    let to = to.wrapping_add((column + index) * inner + first);
                    // SAFETY: the caller guarantees that this part of the token is valid and its own.
                    let to = unsafe { std::slice::from_raw_parts_mut(to, part) };
                    to.iter_mut().zip(token).for_each(|(to, x)| *to = *x);
                }
            }
        }
    }
}
