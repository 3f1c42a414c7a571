//! The convolutional half of a block.

use super::config::UNet2DConditionConfig;
use crate::engine::{
    autograd::Variable,
    error::Result,
    layers::{conv_same, group_norm, linear},
    ops::{FrozenConv2d, FrozenLinear, GroupNorm},
    weights::Weights,
};

/// `shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + W_t silu(t))))`.
///
/// | weight                                  | shape                                |
/// |-----------------------------------------|--------------------------------------|
/// | `norm1.weight`, `.bias`                 | `(in,)`                              |
/// | `conv1.weight`, `.bias`                 | `(out, in, 3, 3)`, `(out,)`          |
/// | `time_emb_proj.weight`, `.bias`         | `(out, time_dim)`, `(out,)`          |
/// | `norm2.weight`, `.bias`                 | `(out,)`                             |
/// | `conv2.weight`, `.bias`                 | `(out, out, 3, 3)`, `(out,)`         |
/// | `conv_shortcut.weight`, `.bias`         | `(out, in, 1, 1)`, `(out,)`, if `in ≠ out` |
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: FrozenConv2d,
    time_emb_proj: FrozenLinear,
    norm2: GroupNorm,
    conv2: FrozenConv2d,
    conv_shortcut: Option<FrozenConv2d>,
}

impl ResnetBlock {
    pub(super) fn load(
        config: &UNet2DConditionConfig,
        (in_channels, out_channels): (usize, usize),
        weights: &Weights<'_>,
    ) -> Result<Self> {
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        let conv_shortcut = match in_channels == out_channels {
            true => None,
            false => Some(conv_same(&weights.at("conv_shortcut"), (out_channels, in_channels), 1)?),
        };
        Ok(Self {
            norm1: group_norm(&weights.at("norm1"), in_channels, groups, eps)?,
            conv1: conv_same(&weights.at("conv1"), (out_channels, in_channels), 3)?,
            time_emb_proj: linear(
                &weights.at("time_emb_proj"),
                out_channels,
                config.time_embedding_dim(),
            )?,
            norm2: group_norm(&weights.at("norm2"), out_channels, groups, eps)?,
            conv2: conv_same(&weights.at("conv2"), (out_channels, out_channels), 3)?,
            conv_shortcut,
        })
    }

    /// - `hidden_states`: `(batch, h, w, in)`
    /// - `embedding`: `(batch, time_dim)`, with SiLU taken
    /// - returns `(batch, h, w, out)`
    pub(super) fn forward(
        &self,
        hidden_states: &Variable,
        embedding: &Variable,
    ) -> Result<Variable> {
        let time = self.time_emb_proj.forward(embedding)?; // (batch, out)
        let inner = self.conv1.forward(&self.norm1.forward_silu(hidden_states)?)?; // (batch, h, w, out)
        let inner = self.norm2.forward_shifted_silu(&inner, time.tensor())?;
        Ok(match &self.conv_shortcut {
            Some(conv) => self.conv2.forward_add(&inner, &conv.forward(hidden_states)?)?,
            None => self.conv2.forward_add(&inner, hidden_states)?,
        })
    }
}
