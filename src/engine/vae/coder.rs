//! Encoder and decoder of the autoencoder.
//!
//! | weight, below `encoder.` or `decoder.`                     | shape                                    |
//! |------------------------------------------------------------|------------------------------------------|
//! | `conv_in`, `conv_out`, `conv_norm_out`: `.weight`, `.bias` | `(out, in, 3, 3)` or `(c,)`              |
//! | `{down,up}_blocks.N.resnets.M.*`, `mid_block.resnets.{0,1}.*` | see [`Resnet`]                        |
//! | `mid_block.attentions.0.*`                                 | see [`MidAttention`]                     |
//! | `down_blocks.N.downsamplers.0.conv`, `up_blocks.N.upsamplers.0.conv` | `(c, c, 3, 3)`, `(c,)`         |

use super::config::AutoencoderKlConfig;
use crate::engine::{
    autograd::Variable,
    error::Result,
    layers::{self, conv, conv_same, group_norm},
    ops::{self, FrozenConv2d, FrozenLinear, GroupNorm, Padding, Precision},
    weights::Weights,
};

/// The epsilon of all norms.
const NORM_EPS: f64 = 1e-6;

/// Image to moments: levels of resnets that halve the size, then the middle.
pub(super) struct Encoder {
    conv_in: FrozenConv2d,
    levels: Vec<Level>,
    middle: Middle,
    conv_norm_out: GroupNorm,
    conv_out: FrozenConv2d,
}

impl Encoder {
    pub(super) fn load(config: &AutoencoderKlConfig, weights: &Weights<'_>) -> Result<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        // The model pads below and to the right only.
        let padding = Padding { top: 0, bottom: 1, left: 0, right: 1 };
        let level = |i: usize| -> Result<Level> {
            let weights = weights.at("down_blocks").at(i);
            let before = channels[i.saturating_sub(1)];
            let resample = match i + 1 < channels.len() {
                true => Some(conv(
                    &weights.at("downsamplers.0.conv"),
                    (channels[i], channels[i]),
                    3,
                    2,
                    padding,
                )?),
                false => None,
            };
            let resnets =
                Resnet::load_all(config, (before, channels[i]), config.layers_per_block, &weights)?;
            Ok(Level { resnets, resample })
        };
        Ok(Self {
            conv_in: conv_same(&weights.at("conv_in"), (first, config.in_channels), 3)?,
            levels: (0..channels.len()).map(level).collect::<Result<_>>()?,
            middle: Middle::load(config, last, &weights.at("mid_block"))?,
            conv_norm_out: group_norm(
                &weights.at("conv_norm_out"),
                last,
                config.norm_num_groups,
                NORM_EPS,
            )?,
            conv_out: conv_same(&weights.at("conv_out"), (2 * config.latent_channels, last), 3)?,
        })
    }

    /// `(batch, H, W, in_channels)` → `(batch, h, w, 2·latent_channels)`.
    pub(super) fn forward(&self, images: &Variable) -> Result<Variable> {
        let mut hidden_states = self.conv_in.forward(images)?;
        for level in &self.levels {
            hidden_states = level.forward_resnets(&hidden_states)?;
            if let Some(conv) = &level.resample {
                hidden_states = conv.forward(&hidden_states)?; // half the size
            }
        }
        let hidden_states = self.middle.forward(&hidden_states)?;
        Ok(self.conv_out.forward(&self.conv_norm_out.forward_silu(&hidden_states)?)?)
    }
}

/// Latents to image: the middle, then levels of resnets that double the size.
pub(super) struct Decoder {
    conv_in: FrozenConv2d,
    middle: Middle,
    levels: Vec<Level>,
    conv_norm_out: GroupNorm,
    conv_out: FrozenConv2d,
}

impl Decoder {
    pub(super) fn load(config: &AutoencoderKlConfig, weights: &Weights<'_>) -> Result<Self> {
        let channels: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let level = |i: usize| -> Result<Level> {
            let weights = weights.at("up_blocks").at(i);
            let before = channels[i.saturating_sub(1)];
            let resample = match i + 1 < channels.len() {
                true => Some(conv_same(
                    &weights.at("upsamplers.0.conv"),
                    (channels[i], channels[i]),
                    3,
                )?),
                false => None,
            };
            let resnets = Resnet::load_all(
                config,
                (before, channels[i]),
                config.layers_per_block + 1,
                &weights,
            )?;
            Ok(Level { resnets, resample })
        };
        Ok(Self {
            conv_in: conv_same(&weights.at("conv_in"), (first, config.latent_channels), 3)?,
            middle: Middle::load(config, first, &weights.at("mid_block"))?,
            levels: (0..channels.len()).map(level).collect::<Result<_>>()?,
            conv_norm_out: group_norm(
                &weights.at("conv_norm_out"),
                last,
                config.norm_num_groups,
                NORM_EPS,
            )?,
            conv_out: conv_same(&weights.at("conv_out"), (config.out_channels, last), 3)?,
        })
    }

    /// `(batch, h, w, latent_channels)` → `(batch, H, W, out_channels)`.
    pub(super) fn forward(&self, latents: &Variable) -> Result<Variable> {
        let mut hidden_states = self.middle.forward(&self.conv_in.forward(latents)?)?;
        for level in &self.levels {
            hidden_states = level.forward_resnets(&hidden_states)?;
            if let Some(conv) = &level.resample {
                let (_, height, width, _) = hidden_states.tensor().dims4()?;
                let doubled = ops::upsample_nearest_2x(&hidden_states, 2 * height, 2 * width)?;
                hidden_states = conv.forward(&doubled)?; // twice the size
            }
        }
        Ok(self.conv_out.forward(&self.conv_norm_out.forward_silu(&hidden_states)?)?)
    }
}

/// One level of resolution. Its owner resamples.
struct Level {
    resnets: Vec<Resnet>,
    resample: Option<FrozenConv2d>,
}

impl Level {
    fn forward_resnets(&self, hidden_states: &Variable) -> Result<Variable> {
        self.resnets.iter().try_fold(hidden_states.clone(), |x, resnet| resnet.forward(&x))
    }
}

/// Resnet, attention, resnet at the lowest resolution.
struct Middle {
    first: Resnet,
    attention: Option<MidAttention>,
    second: Resnet,
}

impl Middle {
    fn load(config: &AutoencoderKlConfig, channels: usize, weights: &Weights<'_>) -> Result<Self> {
        let attention = match config.mid_block_add_attention {
            true => Some(MidAttention::load(config, channels, &weights.at("attentions.0"))?),
            false => None,
        };
        Ok(Self {
            first: Resnet::load(config, (channels, channels), &weights.at("resnets.0"))?,
            attention,
            second: Resnet::load(config, (channels, channels), &weights.at("resnets.1"))?,
        })
    }

    /// `(batch, h, w, channels)` → the same.
    fn forward(&self, hidden_states: &Variable) -> Result<Variable> {
        let mut hidden_states = self.first.forward(hidden_states)?;
        if let Some(attention) = &self.attention {
            hidden_states = attention.forward(&hidden_states)?;
        }
        self.second.forward(&hidden_states)
    }
}

/// `shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))`.
///
/// | weight                                   | shape                                      |
/// |------------------------------------------|--------------------------------------------|
/// | `norm1`, `norm2`: `.weight`, `.bias`     | `(in,)`, `(out,)`                          |
/// | `conv1`, `conv2`: `.weight`, `.bias`     | `(out, in, 3, 3)`, `(out, out, 3, 3)`; `(out,)` |
/// | `conv_shortcut.weight`, `.bias`          | `(out, in, 1, 1)`, `(out,)`, if `in ≠ out` |
struct Resnet {
    norm1: GroupNorm,
    conv1: FrozenConv2d,
    norm2: GroupNorm,
    conv2: FrozenConv2d,
    conv_shortcut: Option<FrozenConv2d>,
}

impl Resnet {
    fn load_all(
        config: &AutoencoderKlConfig,
        (before, channels): (usize, usize),
        count: usize,
        weights: &Weights<'_>,
    ) -> Result<Vec<Self>> {
        let resnet = |i: usize| {
            let in_channels = if i == 0 { before } else { channels };
            Self::load(config, (in_channels, channels), &weights.at("resnets").at(i))
        };
        (0..count).map(resnet).collect()
    }

    fn load(
        config: &AutoencoderKlConfig,
        (in_channels, out_channels): (usize, usize),
        weights: &Weights<'_>,
    ) -> Result<Self> {
        let groups = config.norm_num_groups;
        let conv_shortcut = match in_channels == out_channels {
            true => None,
            false => Some(conv_same(&weights.at("conv_shortcut"), (out_channels, in_channels), 1)?),
        };
        Ok(Self {
            norm1: group_norm(&weights.at("norm1"), in_channels, groups, NORM_EPS)?,
            conv1: conv_same(&weights.at("conv1"), (out_channels, in_channels), 3)?,
            norm2: group_norm(&weights.at("norm2"), out_channels, groups, NORM_EPS)?,
            conv2: conv_same(&weights.at("conv2"), (out_channels, out_channels), 3)?,
            conv_shortcut,
        })
    }

    /// `(batch, h, w, in)` → `(batch, h, w, out)`.
    fn forward(&self, hidden_states: &Variable) -> Result<Variable> {
        let inner = self.conv1.forward(&self.norm1.forward_silu(hidden_states)?)?;
        let inner = self.norm2.forward_silu(&inner)?;
        Ok(match &self.conv_shortcut {
            Some(conv) => self.conv2.forward_add(&inner, &conv.forward(hidden_states)?)?,
            None => self.conv2.forward_add(&inner, hidden_states)?,
        })
    }
}

/// `x + W_o softmax(Q Kᵀ / √c) V` with one head over all positions of `group_norm(x)`.
///
/// | weight                                         | shape                | in older checkpoints   |
/// |------------------------------------------------|----------------------|------------------------|
/// | `group_norm.weight`, `.bias`                   | `(c,)`               |                        |
/// | `to_q`, `to_k`, `to_v`: `.weight`, `.bias`     | `(c, c)`, `(c,)`     | `query`, `key`, `value` |
/// | `to_out.0.weight`, `.bias`                     | `(c, c)`, `(c,)`     | `proj_attn`            |
struct MidAttention {
    group_norm: GroupNorm,
    to_q: FrozenLinear,
    to_k: FrozenLinear,
    to_v: FrozenLinear,
    to_out: FrozenLinear,
    precision: Precision,
}

impl MidAttention {
    fn load(config: &AutoencoderKlConfig, channels: usize, weights: &Weights<'_>) -> Result<Self> {
        let linear = |name: &str, old_name: &str| {
            let old = weights.at(old_name);
            let weights = if old.has("weight") { old } else { weights.at(name) };
            layers::linear(&weights, channels, channels)
        };
        Ok(Self {
            group_norm: group_norm(
                &weights.at("group_norm"),
                channels,
                config.norm_num_groups,
                NORM_EPS,
            )?,
            to_q: linear("to_q", "query")?,
            to_k: linear("to_k", "key")?,
            to_v: linear("to_v", "value")?,
            to_out: linear("to_out.0", "proj_attn")?,
            precision: weights.precision(),
        })
    }

    /// `(batch, h, w, c)` → the same.
    fn forward(&self, hidden_states: &Variable) -> Result<Variable> {
        let (batch, height, width, channels) = hidden_states.tensor().dims4()?;
        let positions = (batch, height * width, channels);
        let normed = self.group_norm.forward(hidden_states)?.reshape(positions)?;
        let query = self.to_q.forward(&normed)?;
        let key = self.to_k.forward(&normed)?;
        let value = self.to_v.forward(&normed)?;
        let scale = (channels as f64).powf(-0.5);
        let gathered = ops::attention(&query, &key, &value, 1, scale, None, self.precision)?;
        let after = self.to_out.forward_add(&gathered, &hidden_states.reshape(positions)?)?;
        Ok(after.reshape((batch, height, width, channels))?)
    }
}
