//! Prompt and deltas to K and V per layer: all that the UNet sees of either.

use candle_core::Tensor;

use super::{EngineError, Result};

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
/// They depend on the text alone, not on latents or timestep: computed once per request.
///
/// [`UNet2DConditionModel::cross_attention`]: super::unet::UNet2DConditionModel::cross_attention
#[derive(Clone, Debug)]
pub struct Conditioning {
    pub layers: Vec<KeyValue>,
}

impl Conditioning {
    /// Joins conditionings of equally many tokens into one batch.
    pub fn cat(parts: &[&Conditioning]) -> Result<Self> {
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

    /// Rows `start..start + len` of the batch.
    pub fn rows(&self, start: usize, len: usize) -> Result<Self> {
        let rows = |kv: &KeyValue| -> Result<KeyValue> {
            Ok(KeyValue {
                key: kv.key.narrow(0, start, len)?,
                value: kv.value.narrow(0, start, len)?,
            })
        };
        Ok(Self { layers: self.layers.iter().map(rows).collect::<Result<_>>()? })
    }
}
