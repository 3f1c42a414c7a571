//! Attention on the CPU.

mod backward;
mod forward;
mod softmax;

use candle_core::{Result, Tensor, bail};

pub(crate) use self::backward::KEYS as BACKWARD_KEYS;
pub(crate) use self::softmax::Softmax;
use crate::engine::ops::gemm::{Left, Numbers, PANEL, Right, transpose};
use crate::engine::ops::precision::Precision;
use crate::engine::ops::simd::in_vectors;

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
        if queries * keys == 0
            || key.dims() != [batch, keys, inner]
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

    /// The factor from products to logits of base 2, whose powers take fewer steps than those of e.
    fn base_2(&self) -> f32 {
        match self.bias {
            None => self.scale * std::f32::consts::LOG2_E,
            Some(_) => std::f32::consts::LOG2_E,
        }
    }

    /// Scales a row and adds the bias. Padding beyond the bias is only scaled.
    fn add_to_row<'a>(&self, row: &mut [f32], bias: impl Iterator<Item = &'a f32>) {
        row.iter_mut().for_each(|x| *x *= self.scale);
        row.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias.max(MIN_BIAS));
    }
}

in_vectors! {
    /// Writes the transpose of `rows`, `(head_dim, width)`: its first `count` columns, each times its factor, become
    /// tokens of `head_dim` floats that are `inner` apart.
    ///
    /// # Safety
    /// The tokens from `to` on must be valid, and nothing else may access them.
    unsafe fn store_transposed<V>(rows: &[f32], width: usize, factors: Option<&[f32]>, count: usize, to: *mut f32, inner: usize) {
        let head_dim = rows.len() / width;
        let mut tokens = [[0.0; PANEL]; PANEL];
        for first in (0..head_dim).step_by(PANEL) {
            let channels = PANEL.min(head_dim - first);
            for column in (0..count).step_by(PANEL) {
                transpose(&rows[first * width + column..], width, channels, &mut tokens);
                for (index, token) in tokens.iter().enumerate().take(count - column) {
                    let factor = factors.map_or(1.0, |factors| factors[column + index]);
                    let to = to.wrapping_add((column + index) * inner + first);
                    for lane in (0..channels).step_by(V::LANES) {
                        let x = V::of(&token[lane..]) * factor;
                        // SAFETY: the caller guarantees that this part of the token is valid and its own.
                        unsafe { x.store_first(to.wrapping_add(lane), channels - lane) };
                    }
                }
            }
        }
    }
}
