//! Attention in candle's tensors: a block of queries at a time, of a chunk of the batch.

use candle_core::{D, Result, Tensor};

use crate::engine::ops::chunks::{CHUNK_FLOATS, in_chunks, wide};

/// Queries of one block, whose logits over all keys are in memory at once.
pub(crate) const QUERIES: usize = 512;

/// One call of [`attention`](super::attention).
pub(super) struct Attention {
    pub(super) heads: usize,
    pub(super) scale: f64,
    /// `(queries, keys)`.
    pub(super) bias: Option<Tensor>,
}

impl Attention {
    /// The result.
    pub(super) fn forward(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        in_chunks(&[query, key, value], self.logits(query, key)?, |part| {
            self.forward_of_chunk(&part[0], &part[1], &part[2])
        })
    }

    /// The gradients of query, key and value, from these and the gradient of the result.
    ///
    /// - `all`: query, key, value, and the gradient
    pub(super) fn backward(&self, all: [&Tensor; 4]) -> Result<[Tensor; 3]> {
        let [query, key, ..] = all;
        let batch = query.dim(0)?;
        let chunk = (CHUNK_FLOATS / self.logits(query, key)?).max(1);
        let mut gradients = [(); 3].map(|()| Vec::new());
        for first in (0..batch).step_by(chunk) {
            let part = |x: &Tensor| x.narrow(0, first, chunk.min(batch - first))?.contiguous();
            let [q, k, v, gradient] = all.map(part);
            let of_part = self.backward_of_chunk(&q?, &k?, &v?, &gradient?)?;
            gradients.iter_mut().zip(of_part).for_each(|(all, part)| all.push(part));
        }
        let [d_q, d_k, d_v] = gradients.map(|parts| joined(parts, 0));
        Ok([d_q?, d_k?, d_v?])
    }

    /// How many logits of one batch element are in memory at once.
    fn logits(&self, query: &Tensor, key: &Tensor) -> Result<usize> {
        Ok(self.heads * query.dim(1)?.min(QUERIES) * key.dim(1)?)
    }

    /// `(batch, tokens, inner)` → `(batch, heads, tokens, head_dim)`.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, inner) = x.dims3()?;
        x.reshape((batch, tokens, self.heads, inner / self.heads))?.transpose(1, 2)?.contiguous()
    }

    /// The inverse of [`Self::split`].
    fn join(x: &Tensor) -> Result<Tensor> {
        x.transpose(1, 2)?.contiguous()?.flatten_from(2)
    }

    /// `P` of the queries from `first` on, `(batch, heads, queries, keys)`, in the wide type.
    fn weights(&self, q: &Tensor, k: &Tensor, first: usize) -> Result<Tensor> {
        let logits = q.matmul(&k.transpose(2, 3)?)?.to_dtype(wide(q))?;
        let logits = (logits * self.scale)?;
        let logits = match &self.bias {
            Some(bias) => {
                let bias = bias.narrow(0, first, q.dim(2)?)?.to_dtype(logits.dtype())?;
                logits.broadcast_add(&bias.clamp(f32::MIN, f32::MAX)?)?
            }
            None => logits,
        };
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        drop(logits);
        let weights = shifted.exp()?;
        drop(shifted);
        weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)
    }

    fn forward_of_chunk(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let (k, v) = (self.split(key)?, self.split(value)?);
        let mut blocks = Vec::new();
        for (first, count) in blocks_of(query.dim(1)?) {
            let q = self.split(&query.narrow(1, first, count)?)?;
            let weights = self.weights(&q, &k, first)?.to_dtype(v.dtype())?;
            blocks.push(Self::join(&weights.matmul(&v)?)?);
        }
        joined(blocks, 1)
    }

    fn backward_of_chunk(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let (k, v) = (self.split(key)?, self.split(value)?);
        let (narrow, wide) = (query.dtype(), wide(query));
        let (mut d_q, mut d_k, mut d_v) =
            (Vec::new(), k.zeros_like()?.to_dtype(wide)?, v.zeros_like()?.to_dtype(wide)?);
        for (first, count) in blocks_of(query.dim(1)?) {
            let part = |x: &Tensor| self.split(&x.narrow(1, first, count)?);
            let (q, d_o) = (part(query)?, part(gradient)?);
            let p = self.weights(&q, &k, first)?;
            let transposed = |x: &Tensor, by: &Tensor| -> Result<Tensor> {
                x.to_dtype(narrow)?.transpose(2, 3)?.matmul(by)?.to_dtype(wide)
            };
            d_v = (d_v + transposed(&p, &d_o)?)?;
            let mut d_p = d_o.matmul(&v.transpose(2, 3)?)?.to_dtype(wide)?;
            let d = (&p * &d_p)?.sum_keepdim(D::Minus1)?;
            d_p = d_p.broadcast_sub(&d)?; // and frees the previous one
            let d_s = ((p * d_p)? * self.scale)?;
            d_k = (d_k + transposed(&d_s, &q)?)?;
            d_q.push(Self::join(&d_s.to_dtype(narrow)?.matmul(&k)?)?);
        }
        let join = |x: Tensor| Self::join(&x.to_dtype(narrow)?);
        Ok([joined(d_q, 1)?, join(d_k)?, join(d_v)?])
    }
}

/// Concatenates parts. A single part is not copied.
fn joined(mut parts: Vec<Tensor>, dim: usize) -> Result<Tensor> {
    match parts.pop() {
        Some(only) if parts.is_empty() => Ok(only),
        Some(last) => {
            parts.push(last);
            Tensor::cat(&parts, dim)
        }
        None => candle_core::bail!("an empty batch"),
    }
}

/// First query and number of queries of each block.
fn blocks_of(queries: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..queries).step_by(QUERIES).map(move |first| (first, QUERIES.min(queries - first)))
}
