//! Scaled dot-product attention with several heads.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{Shared, applies, exp, filled, sum_of_pairs, values, vectorized};
use super::product::{Add, Left, Panels, multiply, multiply_into};

/// Queries of one block: their logits over all keys are held at once, never those of all queries.
const QUERIES: usize = 64;

/// `softmax(Q Kᵀ · scale + bias) V` for every head; heads lie side by side in the last dimension.
///
/// With `P` the softmax, `dV = Pᵀ dO`, `dS = P ∘ (dO Vᵀ − rowsum(dO ∘ O))`, `dQ = scale · dS K`, `dK = scale · dSᵀ Q`.
/// Neither direction stores more logits than those of 64 queries; the gradient computes them again.
///
/// - `query`: `(batch, queries, heads · head_dim)`
/// - `key`, `value`: `(batch, keys, heads · head_dim)`
/// - `bias`: `(queries, keys)`, added to the logits of every head; it takes no gradient
/// - returns `(batch, queries, heads · head_dim)`
pub fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    scale: f64,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    if applies(query) {
        let bias = bias.map(|bias| bias.flatten_all()?.to_vec1::<f32>()).transpose()?;
        let attend = Attend { heads, scale: scale as f32, bias };
        return query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, attend);
    }
    let split = |x: &Tensor| {
        let (batch, tokens, inner) = x.dims3()?;
        x.reshape((batch, tokens, heads, inner / heads))?.transpose(1, 2)?.contiguous()
    };
    let (query, key, value) = (split(query)?, split(key)?, split(value)?); // (batch, heads, tokens, head_dim)
    let logits = (query.matmul(&key.transpose(2, 3)?.contiguous()?)? * scale)?;
    let logits = match bias {
        Some(bias) => logits.broadcast_add(bias)?,
        None => logits,
    };
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let weights = logits.broadcast_sub(&max)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&value)?.transpose(1, 2)?.flatten_from(2)
}

/// Attention on candle's tape.
#[derive(Clone)]
struct Attend {
    heads: usize,
    scale: f32,
    /// `(queries, keys)`.
    bias: Option<Vec<f32>>,
}

/// Sizes of one attention.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    queries: usize,
    keys: usize,
    inner: usize,
    head_dim: usize,
}

impl Attend {
    fn sizes(&self, query: &Layout, key: &Layout, value: &Layout) -> Result<Sizes> {
        let (batch, queries, inner) = query.shape().dims3()?;
        let (_, keys, _) = key.shape().dims3()?;
        if key.dims() != [batch, keys, inner]
            || value.dims() != key.dims()
            || !inner.is_multiple_of(self.heads)
        {
            bail!(
                "{} heads from {:?}, {:?} and {:?}",
                self.heads,
                query.dims(),
                key.dims(),
                value.dims()
            );
        }
        Ok(Sizes { batch, queries, keys, inner, head_dim: inner / self.heads })
    }

    /// The softmax of `rows` queries of one head, from query `first` on, into `weights` `(rows, keys)`.
    fn weights(
        &self,
        query: Left<'_>,
        keys: &Panels,
        count: usize,
        first: usize,
        weights: &mut [f32],
    ) {
        multiply(query, keys, Add::Nothing, weights, count);
        let bias =
            self.bias.as_ref().map(|bias| &bias[first * count..(first + query.rows) * count]);
        softmax_rows(weights, count, self.scale, bias);
    }
}

/// One head's queries, keys or values: rows that lie `inner` apart.
fn head(values: &[f32], row: usize, tokens: usize, sizes: Sizes, head: usize) -> &[f32] {
    &values[row * tokens * sizes.inner + head * sizes.head_dim..(row + 1) * tokens * sizes.inner]
}

/// `rows` of them from token `first` on.
fn rows_from(tokens: &[f32], first: usize, rows: usize, inner: usize) -> Left<'_> {
    Left { data: &tokens[first * inner..], rows, row_stride: inner, depth_stride: 1 }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(query_layout, key_layout, value_layout)?;
        let Sizes { batch, queries, keys, inner, head_dim } = sizes;
        let (q, k, v) =
            (values(query, query_layout)?, values(key, key_layout)?, values(value, value_layout)?);
        let out = filled(q.len(), |out| {
            let shared = Shared::new(out);
            (0..batch * self.heads).into_par_iter().for_each(|task| {
                let (row, h) = (task / self.heads, task % self.heads);
                let q = head(q, row, queries, sizes, h);
                let k = Panels::from_columns(head(k, row, keys, sizes, h), inner, head_dim, keys);
                let v = Panels::from_rows(head(v, row, keys, sizes, h), inner, keys, head_dim);
                (0..queries.div_ceil(QUERIES)).into_par_iter().for_each(|block| {
                    let first = block * QUERIES;
                    let rows = QUERIES.min(queries - first);
                    let left = rows_from(q, first, rows, inner);
                    let weights =
                        filled(rows * keys, |weights| self.weights(left, &k, keys, first, weights));
                    let left = Left { data: &weights, rows, row_stride: keys, depth_stride: 1 };
                    let place = (row * queries + first) * inner + h * head_dim;
                    // SAFETY: each block writes its own rows of its own head's columns, inside `out`.
                    unsafe { multiply_into(left, &v, Add::Nothing, shared.at(place), inner) };
                });
            });
        });
        Ok((CpuStorage::F32(out), query_layout.shape().clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        // One pass makes all three gradients; a candle operation has one result, so they come stacked along the tokens.
        let back =
            AttendBack { attend: self.clone(), out: out.clone(), gradient: gradient.contiguous()? };
        let stacked = query.apply_op3_no_bwd(key, value, &back)?; // (batch, queries + 2·keys, inner)
        let (queries, keys) = (query.dim(1)?, key.dim(1)?);
        Ok((
            Some(stacked.narrow(1, 0, queries)?.contiguous()?),
            Some(stacked.narrow(1, queries, keys)?.contiguous()?),
            Some(stacked.narrow(1, queries + keys, keys)?.contiguous()?),
        ))
    }
}

/// The gradients of queries, keys and values.
struct AttendBack {
    attend: Attend,
    out: Tensor,
    gradient: Tensor,
}

impl CustomOp3 for AttendBack {
    fn name(&self) -> &'static str {
        "attention-back"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let attend = &self.attend;
        let sizes = attend.sizes(query_layout, key_layout, value_layout)?;
        let Sizes { batch, queries, keys, inner, head_dim } = sizes;
        let (q, k, v) =
            (values(query, query_layout)?, values(key, key_layout)?, values(value, value_layout)?);
        let (out, out_layout) = self.out.storage_and_layout();
        let (gradient, gradient_layout) = self.gradient.storage_and_layout();
        let (candle_core::Storage::Cpu(out), candle_core::Storage::Cpu(gradient)) =
            (&*out, &*gradient)
        else {
            bail!("attention's gradient is on another device")
        };
        let (o, d_o) = (values(out, out_layout)?, values(gradient, gradient_layout)?);

        let tokens = queries + 2 * keys;
        let mut stacked = vec![0.0; batch * tokens * inner];
        let shared = Shared::new(&mut stacked);
        (0..batch * attend.heads).into_par_iter().for_each(|task| {
            let (row, h) = (task / attend.heads, task % attend.heads);
            let (q, o, d_o) = (
                head(q, row, queries, sizes, h),
                head(o, row, queries, sizes, h),
                head(d_o, row, queries, sizes, h),
            );
            let (k, v) = (head(k, row, keys, sizes, h), head(v, row, keys, sizes, h));
            let k_columns = Panels::from_columns(k, inner, head_dim, keys); // Kᵀ
            let k_rows = Panels::from_rows(k, inner, keys, head_dim); // K
            let v_columns = Panels::from_columns(v, inner, head_dim, keys); // Vᵀ
            let mut d_k = vec![0.0; keys * head_dim];
            let mut d_v = vec![0.0; keys * head_dim];
            let mut weights = vec![0.0; QUERIES * keys];
            let mut d_weights = vec![0.0; QUERIES * keys];
            for first in (0..queries).step_by(QUERIES) {
                let rows = QUERIES.min(queries - first);
                let (weights, d_weights) =
                    (&mut weights[..rows * keys], &mut d_weights[..rows * keys]);
                attend.weights(rows_from(q, first, rows, inner), &k_columns, keys, first, weights);
                multiply(
                    rows_from(d_o, first, rows, inner),
                    &v_columns,
                    Add::Nothing,
                    d_weights,
                    keys,
                ); // dO Vᵀ
                let turned = |data| Left { data, rows: keys, row_stride: 1, depth_stride: keys };
                let d_o_rows = Panels::from_rows(&d_o[first * inner..], inner, rows, head_dim);
                multiply(turned(&*weights), &d_o_rows, Add::Present, &mut d_v, head_dim); // dV += Pᵀ dO

                softmax_gradient(weights, d_weights, keys, attend.scale, |r| {
                    let at = (first + r) * inner;
                    sum_of_pairs(&o[at..at + head_dim], &d_o[at..at + head_dim], |o, d| o * d)
                });
                let left = Left { data: d_weights, rows, row_stride: keys, depth_stride: 1 };
                let place = (row * tokens + first) * inner + h * head_dim;
                // SAFETY: the task writes its own head's columns of its own row, inside `stacked`.
                unsafe { multiply_into(left, &k_rows, Add::Nothing, shared.at(place), inner) }; // dQ = dS K
                let q_rows = Panels::from_rows(&q[first * inner..], inner, rows, head_dim);
                multiply(turned(&*d_weights), &q_rows, Add::Present, &mut d_k, head_dim); // dK += dSᵀ Q
            }
            for (part, values) in [(queries, &d_k), (queries + keys, &d_v)] {
                for (token, values) in values.chunks_exact(head_dim).enumerate() {
                    let place = shared.at((row * tokens + part + token) * inner + h * head_dim);
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), place, head_dim) };
                }
            }
        });
        Ok((CpuStorage::F32(stacked), (batch, tokens, inner).into()))
    }
}

vectorized! {
    /// Each row becomes `softmax(scale · row + bias)`.
    fn softmax_rows(rows: &mut [f32], width: usize, scale: f32, bias: Option<&[f32]>) {
        for (index, row) in rows.chunks_exact_mut(width).enumerate() {
            match bias {
                Some(bias) => {
                    let bias = &bias[index * width..(index + 1) * width];
                    row.iter_mut().zip(bias).for_each(|(x, bias)| *x = *x * scale + bias);
                }
                None => row.iter_mut().for_each(|x| *x *= scale),
            }
            let mut largest = [f32::NEG_INFINITY; 16];
            each_lane(row, f32::NEG_INFINITY, |lane, x| {
                largest[lane] = if x > largest[lane] { x } else { largest[lane] };
                x
            });
            let largest = largest.into_iter().fold(f32::MIN, f32::max);
            // `exp` stops at e⁻⁸⁷; a masked key weighs that little.
            each_lane(row, f32::NEG_INFINITY, |_, x| exp(x - largest));
            let mut sums = [0.0f32; 16];
            each_lane(row, 0.0, |lane, x| {
                sums[lane] += x;
                x
            });
            let sum: f32 = sums.iter().sum();
            let factor = 1.0 / sum;
            row.iter_mut().for_each(|x| *x *= factor);
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

/// `dS = scale · P ∘ (dP − d)` in place of `dP`, where `d` is `rowsum(dO ∘ O)` of each row.
fn softmax_gradient(
    weights: &[f32],
    d_weights: &mut [f32],
    width: usize,
    scale: f32,
    d: impl Fn(usize) -> f32,
) {
    for (index, (p, ds)) in
        weights.chunks_exact(width).zip(d_weights.chunks_exact_mut(width)).enumerate()
    {
        let d = d(index);
        ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = scale * p * (*ds - d));
    }
}
