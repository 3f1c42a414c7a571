//! The levels of the UNet.
//!
//! | weight                                             | what                                               |
//! |----------------------------------------------------|----------------------------------------------------|
//! | `{down,up}_blocks.N.resnets.M.*`                   | see [`ResnetBlock`]                                |
//! | `{down,up}_blocks.N.attentions.M.*`                | see [`Transformer`], in `CrossAttn…` blocks        |
//! | `down_blocks.N.downsamplers.0.conv.{weight,bias}`  | `(c, c, 3, 3)`, `(c,)`, except in the last block   |
//! | `up_blocks.N.upsamplers.0.conv.{weight,bias}`      | likewise                                           |
//! | `mid_block.resnets.{0,1}.*`, `mid_block.attentions.0.*` | as above                                      |

use candle_core::Tensor;

use super::{
    CrossAttentionKv, config::UNet2DConditionConfig, resnet::ResnetBlock, transformer::Transformer,
};
use crate::engine::{
    EngineError, Result,
    conditioning::Conditioning,
    layers::{concat_channels, conv, conv_same},
    ops::{self, FrozenConv2d, Padding},
    weights::Weights,
};

/// One level on the way down: resnets, each with a transformer if the block attends, then half the size.
pub(super) struct DownBlock {
    layers: Vec<(ResnetBlock, Option<Transformer>)>,
    downsampler: Option<FrozenConv2d>,
}

impl DownBlock {
    pub(super) fn load(
        config: &UNet2DConditionConfig,
        level: usize,
        weights: &Weights<'_>,
        cross_attention: &mut Vec<CrossAttentionKv>,
    ) -> Result<Self> {
        let channels = config.block_out_channels[level];
        let before = config.block_out_channels[level.saturating_sub(1)];
        let attends = config.down_block_types[level] == "CrossAttnDownBlock2D";
        let layer = |i: usize| -> Result<(ResnetBlock, Option<Transformer>)> {
            let in_channels = if i == 0 { before } else { channels };
            let resnet =
                ResnetBlock::load(config, (in_channels, channels), &weights.at("resnets").at(i))?;
            let attention = match attends {
                true => Some(Transformer::load(
                    config,
                    level,
                    &weights.at("attentions").at(i),
                    cross_attention,
                )?),
                false => None,
            };
            Ok((resnet, attention))
        };
        let layers = (0..config.layers(level)).map(layer).collect::<Result<_>>()?;
        let downsampler = match level + 1 < config.levels() {
            true => {
                let padding = Padding::same(config.downsample_padding);
                Some(conv(&weights.at("downsamplers.0.conv"), (channels, channels), 3, 2, padding)?)
            }
            false => None,
        };
        Ok(Self { layers, downsampler })
    }

    /// `(batch, in, h, w)` → `(batch, out, ⌈h/2⌉, ⌈w/2⌉)`; every result on the way is appended to `skips`.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        embedding: &Tensor,
        conditioning: &Conditioning,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut hidden_states = hidden_states.clone();
        for (resnet, attention) in &self.layers {
            hidden_states = resnet.forward(&hidden_states, embedding)?;
            if let Some(attention) = attention {
                hidden_states = attention.forward(&hidden_states, conditioning)?;
            }
            skips.push(hidden_states.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            hidden_states = downsampler.forward(&hidden_states)?;
            skips.push(hidden_states.clone());
        }
        Ok(hidden_states)
    }
}

/// The coarsest level: resnet, transformer, resnet.
pub(super) struct MidBlock {
    first: ResnetBlock,
    attention: Transformer,
    second: ResnetBlock,
}

impl MidBlock {
    pub(super) fn load(
        config: &UNet2DConditionConfig,
        weights: &Weights<'_>,
        cross_attention: &mut Vec<CrossAttentionKv>,
    ) -> Result<Self> {
        let level = config.levels() - 1;
        let channels = config.block_out_channels[level];
        Ok(Self {
            first: ResnetBlock::load(config, (channels, channels), &weights.at("resnets.0"))?,
            attention: Transformer::load(
                config,
                level,
                &weights.at("attentions.0"),
                cross_attention,
            )?,
            second: ResnetBlock::load(config, (channels, channels), &weights.at("resnets.1"))?,
        })
    }

    /// `(batch, channels, h, w)` → the same.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        embedding: &Tensor,
        conditioning: &Conditioning,
    ) -> Result<Tensor> {
        let hidden_states = self.first.forward(hidden_states, embedding)?;
        let hidden_states = self.attention.forward(&hidden_states, conditioning)?;
        self.second.forward(&hidden_states, embedding)
    }
}

/// One level on the way up: one resnet more than on the way down, each reading one of the kept results.
pub(super) struct UpBlock {
    layers: Vec<(ResnetBlock, Option<Transformer>)>,
    upsampler: Option<FrozenConv2d>,
}

impl UpBlock {
    /// `index` counts from the coarsest level, as in the checkpoint.
    pub(super) fn load(
        config: &UNet2DConditionConfig,
        index: usize,
        weights: &Weights<'_>,
        cross_attention: &mut Vec<CrossAttentionKv>,
    ) -> Result<Self> {
        let level = config.levels() - 1 - index;
        let of_level = &config.block_out_channels;
        let channels = of_level[level];
        let below = of_level[(level + 1).min(config.levels() - 1)];
        let above = of_level[level.saturating_sub(1)];
        let attends = config.up_block_types[index] == "CrossAttnUpBlock2D";
        let count = config.layers(level) + 1;
        let layer = |i: usize| -> Result<(ResnetBlock, Option<Transformer>)> {
            let incoming = if i == 0 { below } else { channels };
            let skipped = if i + 1 == count { above } else { channels };
            let resnet = ResnetBlock::load(
                config,
                (incoming + skipped, channels),
                &weights.at("resnets").at(i),
            )?;
            let attention = match attends {
                true => Some(Transformer::load(
                    config,
                    level,
                    &weights.at("attentions").at(i),
                    cross_attention,
                )?),
                false => None,
            };
            Ok((resnet, attention))
        };
        let layers = (0..count).map(layer).collect::<Result<_>>()?;
        let upsampler = match level > 0 {
            true => Some(conv_same(&weights.at("upsamplers.0.conv"), (channels, channels), 3)?),
            false => None,
        };
        Ok(Self { layers, upsampler })
    }

    /// `(batch, in, h, w)` → `(batch, out, h', w')`, the size of the next level's results; takes its own from `skips`.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        embedding: &Tensor,
        conditioning: &Conditioning,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut hidden_states = hidden_states.clone();
        for (resnet, attention) in &self.layers {
            let skip = skips.pop().ok_or_else(too_few_skips)?;
            let joined = concat_channels(&hidden_states, &skip)?; // (batch, in + skipped, h, w)
            hidden_states = resnet.forward(&joined, embedding)?;
            if let Some(attention) = attention {
                hidden_states = attention.forward(&hidden_states, conditioning)?;
            }
        }
        if let Some(upsampler) = &self.upsampler {
            let (_, _, height, width) = skips.last().ok_or_else(too_few_skips)?.dims4()?;
            hidden_states = upsampler.forward(&upsample_to(&hidden_states, height, width)?)?;
        }
        Ok(hidden_states)
    }
}

/// Twice the size, less one row or column where the level above is odd: what nearest interpolation gives there too.
fn upsample_to(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let doubled = ops::upsample_nearest_2x(x)?;
    let (_, _, h, w) = doubled.dims4()?;
    let doubled = if h > height { doubled.narrow(2, 0, height)?.contiguous()? } else { doubled };
    Ok(if w > width { doubled.narrow(3, 0, width)?.contiguous()? } else { doubled })
}

fn too_few_skips() -> EngineError {
    EngineError::Tensor(candle_core::Error::msg("an up block found no result of a down block"))
}
