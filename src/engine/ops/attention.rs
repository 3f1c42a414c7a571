//! Scaled dot-product attention with several heads.

mod candle;
mod cpu;

use candle_core::{Result, Tensor};

pub(super) use self::candle::QUERIES;
pub(super) use self::cpu::{BACKWARD_KEYS, Softmax};
use super::buffer::has_kernels;
use super::cuda;
use super::precision::Precision;
use crate::engine::autograd::Variable;

/// `softmax(Q Kᵀ · scale + bias) V` for every head. The last dimension holds one head after the other.
///
/// With `P` the softmax and `dP = dO Vᵀ`, the gradients are `dV = Pᵀ dO`, `dS = P ∘ (dP − rowsum(P ∘ dP))`,
/// `dQ = scale · dS K` and `dK = scale · dSᵀ Q`.
///
/// Only the logits of one block of queries are in memory at a time. The backward pass computes them again. Our kernels
/// take `P` from each query's largest logit, or one near it, and sum of exponentials, which the forward pass keeps.
///
/// - `query`: `(batch, queries, heads · head_dim)`
/// - `key`, `value`: `(batch, keys, heads · head_dim)`
/// - `bias`: `(queries, keys)`, added to the logits of every head, takes no gradient
/// - `precision`: on the CPU, how the products of a forward pass are computed that nothing is differentiated through
/// - returns `(batch, queries, heads · head_dim)`
pub fn attention(
    query: &Variable,
    key: &Variable,
    value: &Variable,
    heads: usize,
    scale: f64,
    bias: Option<&Tensor>,
    precision: Precision,
) -> Result<Variable> {
    let [q, k, v] =
        [query.tensor().contiguous()?, key.tensor().contiguous()?, value.tensor().contiguous()?];
    if has_kernels(&q) {
        let is_tracked = [query, key, value].iter().any(|x| x.is_tracked());
        let precision = if is_tracked { Precision::Fast } else { precision };
        let attention = cpu::Attention::new([&q, &k, &v], heads, scale, bias, precision)?;
        let (out, softmaxes) = attention.forward(&q, &k, &v)?;
        let kept = attention.keeps_its_result().then(|| out.clone());
        return Ok(Variable::derived(out, [query, key, value], move |gradient, _| {
            let (kept, gradient) = ((kept.as_ref(), &*softmaxes), gradient.contiguous()?);
            let gradients = attention.backward([&q, &k, &v], kept, &gradient)?;
            Ok(gradients.map(Some))
        }));
    }
    if let Some(attention) = cuda::Attention::new(&q, heads, scale, bias)? {
        let (out, softmax) = attention.forward(&q, &k, &v)?;
        let kept = out.clone();
        return Ok(Variable::derived(out, [query, key, value], move |gradient, _| {
            let gradients = attention.backward([&q, &k, &v], (&kept, &softmax), gradient)?;
            Ok(gradients.map(Some))
        }));
    }
    let attention = candle::Attention { heads, scale, bias: bias.cloned() };
    let out = attention.forward(&q, &k, &v)?;
    Ok(Variable::derived(out, [query, key, value], move |gradient, _| {
        Ok(attention.backward([&q, &k, &v, gradient])?.map(Some))
    }))
}
