//! Attention in the flash form: no logit is ever in the GPU's memory.

use candle_core::{DType, Result, Tensor, bail};

use super::launch::{self, Arg};
use super::{Family, has_kernels};

/// Queries, or keys, of a block of 128 threads.
const TILE: usize = 64;
const THREADS: u32 = 128;
/// Widths of heads that there are kernels for; a narrower one is padded in shared memory.
const WIDTHS: [usize; 6] = [16, 32, 48, 64, 80, 160];

/// One call of [`attention`](crate::engine::ops::attention()).
pub(crate) struct Attention {
    heads: usize,
    scale: f64,
    /// `(queries, keys)`, f32.
    bias: Option<Tensor>,
    /// The kernel's width of a head.
    width: usize,
}

impl Attention {
    /// `None` if there is no kernel for the tensor's device, type or width of heads.
    pub(crate) fn new(
        query: &Tensor,
        heads: usize,
        scale: f64,
        bias: Option<&Tensor>,
    ) -> Result<Option<Self>> {
        let is_half = matches!(query.dtype(), DType::BF16 | DType::F16);
        let head_dim = query.dim(2)? / heads;
        let width = WIDTHS.into_iter().find(|width| *width >= head_dim);
        let (true, Some(width)) = (is_half && head_dim.is_multiple_of(8), width) else {
            return Ok(None);
        };
        if !has_kernels(query, Family::Attention) {
            return Ok(None);
        }
        let bias = bias.map(|bias| bias.to_dtype(DType::F32)?.contiguous()).transpose()?;
        Ok(Some(Self { heads, scale, bias, width }))
    }

    /// The result, and what the backward pass needs of it: each query's largest logit and the logarithm of its sum of
    /// exponentials, `(batch, heads, queries, 2)`.
    pub(crate) fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let (batch, queries, inner) = q.dims3()?;
        let (of_batch, keys, width) = k.dims3()?;
        let fits = (of_batch, width) == (batch, inner) && v.dims() == k.dims();
        if !fits || self.bias.as_ref().is_some_and(|bias| bias.dims() != [queries, keys]) {
            bail!("queries of {:?}, keys of {:?}, values of {:?}", q.dims(), k.dims(), v.dims());
        }
        let out = launch::empty(q.dims(), q.dtype(), q)?;
        let softmax = launch::empty(&[batch, self.heads, queries, 2], DType::F32, q)?;
        let mut arguments = vec![Arg::Tensor(q), Arg::Tensor(k), Arg::Tensor(v)];
        arguments.push(Arg::Maybe(self.bias.as_ref()));
        arguments.extend([Arg::Tensor(&out), Arg::Tensor(&softmax)]);
        arguments.extend(self.sizes(q, k)?);
        let name = format!("attention_{}", self.width);
        launch::run(&name, q, self.grid(queries, batch), THREADS, &arguments)?;
        Ok((out, softmax))
    }

    /// The gradients of query, key and value.
    ///
    /// - `out`, `softmax`: of [`Self::forward`]
    pub(crate) fn backward(
        &self,
        [q, k, v]: [&Tensor; 3],
        (out, softmax): (&Tensor, &Tensor),
        d_out: &Tensor,
    ) -> Result<[Tensor; 3]> {
        const WARP: u32 = 32;
        let d_out = d_out.to_dtype(q.dtype())?.contiguous()?;
        let (batch, queries, inner) = q.dims3()?;
        let rows = batch * self.heads * queries;
        let dots = launch::empty(&[batch, self.heads, queries], DType::F32, q)?;
        let arguments = [
            Arg::Tensor(out),
            Arg::Tensor(&d_out),
            Arg::Tensor(&dots),
            Arg::U32(queries as u32),
            Arg::U32(self.heads as u32),
            Arg::U32((inner / self.heads) as u32),
            Arg::U32(rows as u32),
        ];
        let blocks = (rows as u32).div_ceil(THREADS / WARP);
        launch::run("attention_dots", q, (blocks, 1, 1), THREADS, &arguments)?;

        let inputs = || {
            let bias = Arg::Maybe(self.bias.as_ref());
            let mut all = vec![Arg::Tensor(q), Arg::Tensor(k), Arg::Tensor(v), bias];
            all.extend([Arg::Tensor(&d_out), Arg::Tensor(softmax), Arg::Tensor(&dots)]);
            all
        };
        let like = |x: &Tensor| launch::empty(x.dims(), x.dtype(), x);
        let [d_q, d_k, d_v] = [like(q)?, like(k)?, like(v)?];
        let mut arguments = inputs();
        arguments.push(Arg::Tensor(&d_q));
        arguments.extend(self.sizes(q, k)?);
        let name = format!("attention_queries_{}", self.width);
        launch::run(&name, q, self.grid(queries, batch), THREADS, &arguments)?;
        let mut arguments = inputs();
        arguments.extend([Arg::Tensor(&d_k), Arg::Tensor(&d_v)]);
        arguments.extend(self.sizes(q, k)?);
        let name = format!("attention_keys_{}", self.width);
        launch::run(&name, q, self.grid(k.dim(1)?, batch), THREADS, &arguments)?;
        drop(arguments);
        Ok([d_q, d_k, d_v])
    }

    fn grid(&self, rows: usize, batch: usize) -> (u32, u32, u32) {
        (rows.div_ceil(TILE) as u32, self.heads as u32, batch as u32)
    }

    /// Queries, keys, heads, width of a head, and the scale.
    fn sizes(&self, q: &Tensor, k: &Tensor) -> Result<[Arg<'static>; 5]> {
        let number = |x: usize| Arg::U32(x as u32);
        let head_dim = q.dim(2)? / self.heads;
        let scale = Arg::F32(self.scale as f32);
        Ok([number(q.dim(1)?), number(k.dim(1)?), number(self.heads), number(head_dim), scale])
    }
}
