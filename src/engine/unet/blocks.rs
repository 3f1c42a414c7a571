//! The levels of the UNet.
//!
//! | weight                                             | what                                               |
//! |----------------------------------------------------|----------------------------------------------------|
//! | `{down,up}_blocks.N.resnets.M.*`                   | see [`ResnetBlock`]                                |
//! | `{down,up}_blocks.N.attentions.M.*`                | see [`Transformer`], in `CrossAttn…` blocks        |
//! | `down_blocks.N.downsamplers.0.conv.{weight,bias}`  | `(c, c, 3, 3)`, `(c,)`, except in the last block   |
//! | `up_blocks.N.upsamplers.0.conv.{weight,bias}`      | likewise                                           |
//! | `mid_block.resnets.{0,1}.*`, `mid_block.attentions.0.*` | as above                                      |

use std::cell::Cell;
use std::sync::Arc;

use super::{
    config::{ATTENDING_DOWN, ATTENDING_UP, UNet2DConditionConfig},
    cross_attention::{CrossAttentionKv, KeyValueVariable},
    memory::Recomputation,
    resnet::ResnetBlock,
    transformer::Transformer,
};
use crate::engine::{
    autograd::{Variable, checkpoint},
    error::{EngineError, Result},
    layers::{conv, conv_same},
    ops::{self, FrozenConv2d, Padding},
    weights::Weights,
};

/// What all blocks of a call share.
pub(super) struct Call<'a> {
    /// `(batch, time_dim)`, with SiLU taken.
    pub(super) embedding: Variable,
    /// Of all cross-attention layers of the model.
    pub(super) key_values: Vec<KeyValueVariable>,
    /// Whether the backward pass computes a layer again instead of keeping what it needs.
    pub(super) recomputation: &'a Recomputation,
    /// Layers that have run.
    pub(super) layer: Cell<usize>,
}

impl Call<'_> {
    /// Whether the layer whose turn it is is computed again.
    fn next_is_recomputed(&self) -> bool {
        let layer = self.layer.replace(self.layer.get() + 1);
        self.recomputation.0.get(layer).copied().unwrap_or(false)
    }
}

/// A resnet, then a transformer if the block attends: what gradient checkpointing keeps together.
struct Layer {
    resnet: ResnetBlock,
    attention: Option<Transformer>,
}

impl Layer {
    fn load(
        config: &UNet2DConditionConfig,
        (level, attends): (usize, bool),
        (in_channels, out_channels): (usize, usize),
        (resnet, attention): (&Weights<'_>, &Weights<'_>),
        cross_attention: &mut Vec<CrossAttentionKv>,
    ) -> Result<Arc<Self>> {
        let resnet = ResnetBlock::load(config, (in_channels, out_channels), resnet)?;
        let attention = match attends {
            true => Some(Transformer::load(config, level, attention, cross_attention)?),
            false => None,
        };
        Ok(Arc::new(Self { resnet, attention }))
    }

    /// `(batch, h, w, in)` → `(batch, h, w, out)`.
    fn forward(self: &Arc<Self>, hidden_states: &Variable, call: &Call<'_>) -> Result<Variable> {
        let range = self.attention.as_ref().map_or(0..0, Transformer::cross_attention);
        let key_values = &call.key_values[range];
        if !call.next_is_recomputed() {
            return self.run(&hidden_states.apart(), &call.embedding, key_values);
        }
        let mut inputs = vec![hidden_states];
        inputs.extend(key_values.iter().flat_map(|kv| [&kv.key, &kv.value]));
        let (layer, embedding) = (self.clone(), call.embedding.clone());
        checkpoint(&inputs, move |inputs| {
            let kv = |pair: &[Variable]| KeyValueVariable::new(pair[0].clone(), pair[1].clone());
            let key_values: Vec<KeyValueVariable> = inputs[1..].chunks_exact(2).map(kv).collect();
            layer.run(&inputs[0], &embedding, &key_values)
        })
    }

    fn run(
        &self,
        hidden_states: &Variable,
        embedding: &Variable,
        key_values: &[KeyValueVariable],
    ) -> Result<Variable> {
        let hidden_states = self.resnet.forward(hidden_states, embedding)?;
        match &self.attention {
            Some(attention) => attention.forward(&hidden_states, key_values),
            None => Ok(hidden_states),
        }
    }
}

/// A down block: resnets, each with a transformer if the block attends, then half the size.
pub(super) struct DownBlock {
    layers: Vec<Arc<Layer>>,
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
        let attends = config.down_block_types[level] == ATTENDING_DOWN;
        let layer = |i: usize| {
            let in_channels = if i == 0 { before } else { channels };
            let names = (&weights.at("resnets").at(i), &weights.at("attentions").at(i));
            Layer::load(config, (level, attends), (in_channels, channels), names, cross_attention)
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

    /// `(batch, h, w, in)` → `(batch, ⌈h/2⌉, ⌈w/2⌉, out)`; every result on the way is appended to `skips`.
    pub(super) fn forward(
        &self,
        hidden_states: &Variable,
        call: &Call<'_>,
        skips: &mut Vec<Variable>,
    ) -> Result<Variable> {
        let mut hidden_states = hidden_states.clone();
        for layer in &self.layers {
            hidden_states = layer.forward(&hidden_states, call)?;
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
    first: Arc<Layer>,
    second: Arc<Layer>,
}

impl MidBlock {
    pub(super) fn load(
        config: &UNet2DConditionConfig,
        weights: &Weights<'_>,
        cross_attention: &mut Vec<CrossAttentionKv>,
    ) -> Result<Self> {
        let level = config.levels() - 1;
        let channels = config.block_out_channels[level];
        let sizes = (channels, channels);
        let mut layer = |attends: bool, resnet: &str| {
            let names = (&weights.at(resnet), &weights.at("attentions.0"));
            Layer::load(config, (level, attends), sizes, names, cross_attention)
        };
        Ok(Self { first: layer(true, "resnets.0")?, second: layer(false, "resnets.1")? })
    }

    /// `(batch, h, w, channels)` → the same.
    pub(super) fn forward(&self, hidden_states: &Variable, call: &Call<'_>) -> Result<Variable> {
        self.second.forward(&self.first.forward(hidden_states, call)?, call)
    }
}

/// An up block: one resnet more than a down block, each reading one of the kept results.
pub(super) struct UpBlock {
    layers: Vec<Arc<Layer>>,
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
        let attends = config.up_block_types[index] == ATTENDING_UP;
        let count = config.layers(level) + 1;
        let layer = |i: usize| {
            let incoming = if i == 0 { below } else { channels };
            let skipped = if i + 1 == count { above } else { channels };
            let names = (&weights.at("resnets").at(i), &weights.at("attentions").at(i));
            let sizes = (incoming + skipped, channels);
            Layer::load(config, (level, attends), sizes, names, cross_attention)
        };
        let layers = (0..count).map(layer).collect::<Result<_>>()?;
        let upsampler = match level > 0 {
            true => Some(conv_same(&weights.at("upsamplers.0.conv"), (channels, channels), 3)?),
            false => None,
        };
        Ok(Self { layers, upsampler })
    }

    /// `(batch, h, w, in)` → `(batch, h', w', out)`, the size of the next level's results; takes its own from `skips`.
    pub(super) fn forward(
        &self,
        hidden_states: &Variable,
        call: &Call<'_>,
        skips: &mut Vec<Variable>,
    ) -> Result<Variable> {
        let mut hidden_states = hidden_states.clone();
        for layer in &self.layers {
            let skip = skips.pop().ok_or_else(too_few_skips)?;
            let joined = ops::concat_channels(&hidden_states, &skip)?; // (batch, h, w, in + skipped)
            hidden_states = layer.forward(&joined, call)?;
        }
        if let Some(upsampler) = &self.upsampler {
            // Nearest interpolation to the size of the level above, odd or even.
            let (_, height, width, _) = skips.last().ok_or_else(too_few_skips)?.tensor().dims4()?;
            let doubled = ops::upsample_nearest_2x(&hidden_states, height, width)?;
            hidden_states = upsampler.forward(&doubled)?;
        }
        Ok(hidden_states)
    }
}

fn too_few_skips() -> EngineError {
    EngineError::Tensor(candle_core::Error::msg("an up block found no result of a down block"))
}
