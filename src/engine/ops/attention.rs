//! Scaled dot-product attention with several heads.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{
    Shared, applies, exp2_of_negative, filled, join_lanes, sum_of_pairs, tensor, values, vectorized,
};
use super::elsewhere;
use super::product::{Add, Left, Panels, Right, multiply, multiply_into};
use crate::engine::autograd::Variable;

/// Queries of one block: their logits over all keys are held at once, never those of all queries.
const QUERIES: usize = 64;

/// What a bias of less counts as: a masked key's logit stays a number, whatever it is multiplied by.
const MASKED: f32 = -1e30;

/// `softmax(Q Kᵀ · scale + bias) V` for every head; heads lie side by side in the last dimension.
///
/// With `P` the softmax, `dV = Pᵀ dO`, `dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O))`, `dQ = scale · dS K`, `dK = scale · dSᵀ Q`.
/// Neither direction stores more logits than those of a block of queries; the gradient computes them again, and `P` from
/// them by each query's largest logit and sum of exponentials, which are kept.
///
/// - `query`: `(batch, queries, heads · head_dim)`
/// - `key`, `value`: `(batch, keys, heads · head_dim)`
/// - `bias`: `(queries, keys)`, added to the logits of every head; it takes no gradient
/// - returns `(batch, queries, heads · head_dim)`
pub fn attention(
    query: &Variable,
    key: &Variable,
    value: &Variable,
    heads: usize,
    scale: f64,
    bias: Option<&Tensor>,
) -> Result<Variable> {
    if !applies(query.tensor()) {
        return elsewhere::attention(query, key, value, heads, scale, bias);
    }
    let bias = bias.map(|bias| bias.flatten_all()?.to_vec1::<f32>()).transpose()?;
    let [q, k, v] =
        [query.tensor().contiguous()?, key.tensor().contiguous()?, value.tensor().contiguous()?];
    let sizes = Sizes::of(&q, &k, &v, heads)?;
    let attend = Attend { sizes, scale: scale as f32, bias };
    let (out, softmaxes) = attend.forward(&q, &k, &v)?;
    let kept = out.clone();
    Ok(Variable::derived(out, [query, key, value], move |gradient, _| {
        let gradients =
            attend.backward([&q, &k, &v, &kept, &gradient.contiguous()?], &softmaxes)?;
        Ok(gradients.map(Some))
    }))
}

/// How a row of logits becomes probabilities: `2^(x − largest) · factor`, of logits to base 2.
#[derive(Clone, Copy, Default)]
pub(super) struct Softmax {
    largest: f32,
    factor: f32,
}

/// One attention.
struct Attend {
    sizes: Sizes,
    scale: f32,
    /// `(queries, keys)`.
    bias: Option<Vec<f32>>,
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

    /// One head of one row's queries, keys or values: tokens lie `inner` apart.
    fn head(self, values: &[f32], task: usize, tokens: usize) -> &[f32] {
        let (row, head) = (task / self.heads, task % self.heads);
        &values[row * tokens * self.inner + head * self.head_dim..(row + 1) * tokens * self.inner]
    }

    /// Where token `at` of a task's head begins.
    fn place(self, task: usize, tokens: usize, at: usize) -> usize {
        let (row, head) = (task / self.heads, task % self.heads);
        (row * tokens + at) * self.inner + head * self.head_dim
    }
}

/// `count` tokens from `first` on.
fn tokens(values: &[f32], first: usize, count: usize, inner: usize) -> Left<'_> {
    Left::Strided {
        data: &values[first * inner..],
        rows: count,
        row_stride: inner,
        depth_stride: 1,
    }
}

impl Attend {
    /// The result, and how each row of logits became probabilities, `(batch, heads, queries)`.
    fn forward(
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
        let out = filled(q.len(), |out| {
            let shared = Shared::new(out);
            softmaxes.par_chunks_mut(queries).enumerate().for_each(|(task, softmaxes)| {
                let q = sizes.head(q, task, queries);
                let k = Panels::from_columns(sizes.head(k, task, keys), inner, head_dim, keys);
                let v = Panels::from_rows(sizes.head(v, task, keys), inner, keys, head_dim);
                softmaxes.par_chunks_mut(QUERIES).enumerate().for_each(|(block, softmaxes)| {
                    let (first, rows) = (block * QUERIES, softmaxes.len());
                    let left = tokens(q, first, rows, inner);
                    let weights = filled(rows * keys, |weights| {
                        multiply(left, Right::Panels(k.view()), Add::default(), weights, keys);
                        let bias = self.bias_of(first, rows);
                        exponentials(weights, keys, self.scale, bias, softmaxes);
                    });
                    let left = Left::rows(&weights, keys);
                    let place = shared.at(sizes.place(task, queries, first));
                    // SAFETY: each block writes its own rows of its own head's columns, inside `out`.
                    unsafe {
                        let v = Right::Panels(v.view());
                        multiply_into(left, v, Add::default(), 0..head_dim, place, inner);
                        for (row, softmax) in softmaxes.iter().enumerate() {
                            let row =
                                std::slice::from_raw_parts_mut(place.add(row * inner), head_dim);
                            row.iter_mut().for_each(|x| *x *= softmax.factor);
                        }
                    }
                });
            });
        });
        Ok((tensor(out, query.shape())?, softmaxes))
    }

    /// The bias of `rows` queries from `first` on.
    fn bias_of(&self, first: usize, rows: usize) -> Option<&[f32]> {
        let keys = self.sizes.keys;
        self.bias.as_ref().map(|bias| &bias[first * keys..(first + rows) * keys])
    }

    /// The gradients of query, key and value, from these, the result and its gradient, and what [`Self::forward`] gave.
    fn backward(
        &self,
        [query, key, value, out, gradient]: [&Tensor; 5],
        softmaxes: &[Softmax],
    ) -> Result<[Tensor; 3]> {
        let sizes = self.sizes;
        let Sizes { batch, queries, keys, inner, heads, head_dim } = sizes;
        let (q, k, v) = (values(query)?, values(key)?, values(value)?);
        let (q, k, v): (&[f32], &[f32], &[f32]) = (&q, &k, &v);
        let (o, d_o) = (values(out)?, values(gradient)?);
        let (o, d_o): (&[f32], &[f32]) = (&o, &d_o);
        let [mut d_q, mut d_k, mut d_v] =
            [q.len(), k.len(), v.len()].map(|len| filled(len, |_| {}));
        let [to_q, to_k, to_v] = [&mut d_q, &mut d_k, &mut d_v].map(|values| Shared::new(values));
        (0..batch * heads).into_par_iter().for_each(|task| {
            let [q, o, d_o] = [q, o, d_o].map(|x| sizes.head(x, task, queries));
            let [k, v] = [k, v].map(|x| sizes.head(x, task, keys));
            let k_columns = Panels::from_columns(k, inner, head_dim, keys); // Kᵀ
            let k_rows = Panels::from_rows(k, inner, keys, head_dim); // K
            let v_columns = Panels::from_columns(v, inner, head_dim, keys); // Vᵀ
            let mut weights = filled(QUERIES * keys, |_| {});
            let mut d_weights = filled(QUERIES * keys, |_| {});
            for first in (0..queries).step_by(QUERIES) {
                let rows = QUERIES.min(queries - first);
                let (p, d_p) = (&mut weights[..rows * keys], &mut d_weights[..rows * keys]);
                let [q, o, d_o] = [q, o, d_o].map(|x| &x[first * inner..]);
                let left = tokens(q, 0, rows, inner);
                multiply(left, Right::Panels(k_columns.view()), Add::default(), p, keys);
                let left = tokens(d_o, 0, rows, inner);
                multiply(left, Right::Panels(v_columns.view()), Add::default(), d_p, keys); // dO Vᵀ
                let mut products = [0.0; QUERIES];
                row_products(o, d_o, inner, head_dim, &mut products[..rows]);
                let softmaxes = &softmaxes[task * queries + first..][..rows];
                let bias = self.bias_of(first, rows);
                softmax_gradient(p, d_p, keys, self.scale, bias, softmaxes, &products);

                let turned =
                    |data| Left::Strided { data, rows: keys, row_stride: 1, depth_stride: keys };
                let d_o_rows = Panels::from_rows(d_o, inner, rows, head_dim);
                let q_rows = Panels::from_rows(q, inner, rows, head_dim);
                let add = Add { present: first > 0, ..Add::default() };
                let columns = 0..head_dim;
                let to_k = to_k.at(sizes.place(task, keys, 0));
                let to_v = to_v.at(sizes.place(task, keys, 0));
                let to_q = to_q.at(sizes.place(task, queries, first));
                // SAFETY: the task writes its own head's columns of its own row, inside the three gradients.
                unsafe {
                    // dV += Pᵀ dO, dQ = dS K, dK += dSᵀ Q
                    let d_o = Right::Panels(d_o_rows.view());
                    multiply_into(turned(&*p), d_o, add, columns.clone(), to_v, inner);
                    let k = Right::Panels(k_rows.view());
                    multiply_into(
                        Left::rows(d_p, keys),
                        k,
                        Add::default(),
                        columns.clone(),
                        to_q,
                        inner,
                    );
                    let q = Right::Panels(q_rows.view());
                    multiply_into(turned(&*d_p), q, add, columns, to_k, inner);
                }
            }
        });
        Ok([tensor(d_q, query.shape())?, tensor(d_k, key.shape())?, tensor(d_v, value.shape())?])
    }
}

vectorized! {
    /// Each row becomes `exp(scale · row + bias − its largest)`, to be multiplied by its factor yet.
    fn exponentials(rows: &mut [f32], width: usize, scale: f32, bias: Option<&[f32]>, softmaxes: &mut [Softmax]) {
        for (index, (row, softmax)) in rows.chunks_exact_mut(width).zip(softmaxes).enumerate() {
            let factor = add_bias(row, scale, bias.map(|bias| &bias[index * width..(index + 1) * width]));
            let mut largest = [f32::MIN; 16];
            each_lane(row, f32::MIN, |lane, x| {
                largest[lane] = if x > largest[lane] { x } else { largest[lane] };
                x
            });
            let largest = join_lanes(largest, f32::max) * factor;
            let mut lanes = [0.0f32; 16];
            each_lane(row, f32::MIN, |lane, x| {
                let e = exp2_of_negative(x.mul_add(factor, -largest));
                lanes[lane] += e;
                e
            });
            *softmax = Softmax { largest, factor: 1.0 / join_lanes(lanes, |a, b| a + b) };
        }
    }
}

/// Adds a bias to a row of logits, and returns what they are to be multiplied by: powers of 2 take fewer steps than
/// those of e.
#[inline(always)]
fn add_bias(row: &mut [f32], scale: f32, bias: Option<&[f32]>) -> f32 {
    match bias {
        None => scale * std::f32::consts::LOG2_E,
        Some(bias) => {
            row.iter_mut().zip(bias).for_each(|(x, bias)| *x = *x * scale + bias.max(MASKED));
            std::f32::consts::LOG2_E
        }
    }
}

/// Maps a row in groups of 16 numbers, the last filled up with `fill`, so that no number is computed by itself.
#[inline(always)]
fn each_lane(row: &mut [f32], fill: f32, mut f: impl FnMut(usize, f32) -> f32) {
    let (groups, rest) = row.as_chunks_mut::<16>();
    for group in groups {
        for (lane, x) in group.iter_mut().enumerate() {
            *x = f(lane, *x);
        }
    }
    if !rest.is_empty() {
        let mut group = [fill; 16];
        group[..rest.len()].copy_from_slice(rest);
        for (lane, x) in group.iter_mut().enumerate() {
            *x = f(lane, *x);
        }
        rest.copy_from_slice(&group[..rest.len()]);
    }
}

vectorized! {
    /// The product of two tokens' `width` numbers, for as many tokens as there is room for; they lie `stride` apart.
    fn row_products(a: &[f32], b: &[f32], stride: usize, width: usize, products: &mut [f32]) {
        for (index, product) in products.iter_mut().enumerate() {
            let numbers = index * stride..index * stride + width;
            *product = sum_of_pairs(&a[numbers.clone()], &b[numbers], |a, b| a * b);
        }
    }
}

vectorized! {
    /// From logits and `dP`: `P` in place of the logits, and `dS = scale · P ∘ (dP − d)` in place of `dP`, where `d` is
    /// `rowsum(dO ∘ O)` of each row.
    fn softmax_gradient(logits: &mut [f32], d_weights: &mut [f32], width: usize, scale: f32, bias: Option<&[f32]>, softmaxes: &[Softmax], d: &[f32]) {
        let rows = logits.chunks_exact_mut(width).zip(d_weights.chunks_exact_mut(width));
        for (index, ((row, ds), (softmax, d))) in rows.zip(softmaxes.iter().zip(d)).enumerate() {
            let factor = add_bias(row, scale, bias.map(|bias| &bias[index * width..(index + 1) * width]));
            let Softmax { largest, factor: share } = *softmax;
            each_lane(row, f32::MIN, |_, x| share * exp2_of_negative(x.mul_add(factor, -largest)));
            ds.iter_mut().zip(&*row).for_each(|(ds, p)| *ds = scale * p * (*ds - d));
        }
    }
}
