//! The layers where the UNet attends to a prompt, by what Custom Diffusion trains of them and by what they attend to.

use candle_core::Tensor;

use super::watch::Watch;
use crate::engine::autograd::Variable;
use crate::engine::ops::FrozenLinear;

/// `to_k` and `to_v` of one cross-attention layer: what Custom Diffusion trains.
pub struct CrossAttentionKv {
    /// The layer as in the checkpoint, such as `down_blocks.0.attentions.0.transformer_blocks.0.attn2`.
    pub name: String,
    /// `(inner, cross_attention_dim)`.
    pub to_k: Tensor,
    /// `(inner, cross_attention_dim)`.
    pub to_v: Tensor,
    pub(super) frozen_k: FrozenLinear,
    pub(super) frozen_v: FrozenLinear,
}

/// K and V of one cross-attention layer as a training takes them, each `(batch, tokens, inner)`.
#[derive(Clone, Debug)]
pub struct KeyValueVariable {
    pub key: Variable,
    pub value: Variable,
    /// Keeps what elements attend to.
    pub watch: Option<Watch>,
}

impl KeyValueVariable {
    /// Without a watch.
    pub fn new(key: Variable, value: Variable) -> Self {
        Self { key, value, watch: None }
    }
}
