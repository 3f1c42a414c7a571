//! Scaled dot-product attention.

use candle_core::{D, Result, Tensor};

/// `softmax(Q Kᵀ · scale + bias) V` for every head.
///
/// - `query`: `(batch, heads, queries, head_dim)`
/// - `key`, `value`: `(batch, heads, keys, head_dim)`
/// - `bias`: added to the logits, broadcast to `(batch, heads, queries, keys)`; it takes no gradient
/// - returns `(batch, heads, queries, head_dim)`
pub fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scale: f64,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let logits = (query.contiguous()?.matmul(&key.transpose(2, 3)?.contiguous()?)? * scale)?;
    let logits = match bias {
        Some(bias) => logits.broadcast_add(bias)?,
        None => logits,
    };
    let max = logits.max_keepdim(D::Minus1)?.detach();
    let weights = logits.broadcast_sub(&max)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    weights.matmul(&value.contiguous()?)
}
