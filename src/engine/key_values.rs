//! Keys and values of the cross-attention layers: all that the UNet sees of prompts and concepts.

use candle_core::Tensor;

use super::error::{EngineError, Result};

/// What one cross-attention layer attends to.
#[derive(Clone, Debug)]
pub struct KeyValue {
    /// `(batch, tokens, inner)`.
    pub key: Tensor,
    /// `(batch, tokens, inner)`.
    pub value: Tensor,
}

/// K and V of every cross-attention layer, in the order of [`UNet2DConditionModel::cross_attention`].
///
/// They depend on the text alone, not on latents or timestep, and are computed once per request.
///
/// [`UNet2DConditionModel::cross_attention`]: super::unet::UNet2DConditionModel::cross_attention
#[derive(Clone, Debug)]
pub struct KeyValues {
    pub layers: Vec<KeyValue>,
}

impl KeyValues {
    /// Joins keys and values of equally many tokens into one batch.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] without any part.
    pub fn cat(parts: &[&KeyValues]) -> Result<Self> {
        let Some(first) = parts.first() else {
            return Err(EngineError::InvalidInput(
                "a batch needs at least one conditioning".into(),
            ));
        };
        let layer = |i: usize| -> Result<KeyValue> {
            let keys: Vec<&Tensor> = parts.iter().map(|part| &part.layers[i].key).collect();
            let values: Vec<&Tensor> = parts.iter().map(|part| &part.layers[i].value).collect();
            Ok(KeyValue { key: Tensor::cat(&keys, 0)?, value: Tensor::cat(&values, 0)? })
        };
        Ok(Self { layers: (0..first.layers.len()).map(layer).collect::<Result<_>>()? })
    }

    /// The keys and values of all layers from one tensor.
    ///
    /// - `all`: side by side, each layer's keys before its values, `(batch, tokens, Σ 2·inner)`
    /// - `inner`: the width of each layer
    pub(super) fn split(all: &Tensor, inner: &[usize]) -> Result<Self> {
        let mut start = 0;
        let mut next = |inner: usize| -> Result<Tensor> {
            let part = all.narrow(2, start, inner)?.contiguous()?;
            start += inner;
            Ok(part)
        };
        let mut layer = |&inner: &usize| Ok(KeyValue { key: next(inner)?, value: next(inner)? });
        Ok(Self { layers: inner.iter().map(&mut layer).collect::<Result<_>>()? })
    }

    /// Memory that the keys and values take.
    pub fn size_bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        self.layers.iter().map(|kv| bytes(&kv.key) + bytes(&kv.value)).sum()
    }
}
