//! The transformer of a block: image positions attend to each other, then to the prompt.

use candle_core::D;

use super::{
    config::UNet2DConditionConfig,
    cross_attention::{CrossAttentionKv, KeyValueVariable},
};
use crate::engine::{
    autograd::Variable,
    error::Result,
    layers::{geglu, group_norm, layer_norm, linear, linear_without_bias},
    ops::{self, FrozenLinear, Geglu, GroupNorm, LayerNorm, Precision},
    weights::Weights,
};

/// The norm before the projection in is fixed in diffusers, whatever `norm_eps` says.
const NORM_EPS: f64 = 1e-6;
const LAYER_NORM_EPS: f64 = 1e-5;

/// `x + proj_out(blocks(proj_in(norm(x))))` over all positions of an image.
///
/// | weight                       | shape, with `inner = heads · head_dim`                              |
/// |------------------------------|---------------------------------------------------------------------|
/// | `norm.weight`, `.bias`       | `(channels,)`                                                       |
/// | `proj_in.weight`, `.bias`    | `(inner, channels[, 1, 1])`, `(inner,)`; a 1×1 convolution is the same product |
/// | `transformer_blocks.N.*`     | see [`TransformerBlock`]                                            |
/// | `proj_out.weight`, `.bias`   | `(channels, inner[, 1, 1])`, `(channels,)`                          |
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: FrozenLinear,
    blocks: Vec<TransformerBlock>,
    proj_out: FrozenLinear,
}

impl Transformer {
    /// Takes the weights, and appends the cross-attention layers to the model's list.
    pub(super) fn load(
        config: &UNet2DConditionConfig,
        level: usize,
        weights: &Weights<'_>,
        cross_attention: &mut Vec<CrossAttentionKv>,
    ) -> Result<Self> {
        let (channels, heads) = (config.block_out_channels[level], config.heads(level));
        let inner = heads * (channels / heads);
        let blocks = (0..config.transformer_layers(level))
            .map(|i| {
                TransformerBlock::load(
                    config,
                    (inner, heads),
                    &weights.at("transformer_blocks").at(i),
                    cross_attention,
                )
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            norm: group_norm(&weights.at("norm"), channels, config.norm_num_groups, NORM_EPS)?,
            proj_in: linear(&weights.at("proj_in"), inner, channels)?,
            blocks,
            proj_out: linear(&weights.at("proj_out"), channels, inner)?,
        })
    }

    /// How many of the model's cross-attention layers are in here, and which is the first.
    pub(super) fn cross_attention(&self) -> std::ops::Range<usize> {
        let first = self.blocks.first().map_or(0, |block| block.attn2.layer);
        first..first + self.blocks.len()
    }

    /// - `hidden_states`: `(batch, h, w, channels)`
    /// - `key_values`: of the layers of [`Self::cross_attention`]
    /// - returns `(batch, h, w, channels)`
    pub(super) fn forward(
        &self,
        hidden_states: &Variable,
        key_values: &[KeyValueVariable],
    ) -> Result<Variable> {
        let (batch, height, width, channels) = hidden_states.tensor().dims4()?;
        let positions =
            self.norm.forward(hidden_states)?.reshape((batch, height * width, channels))?;
        let mut positions = self.proj_in.forward(&positions)?; // (batch, h·w, inner)
        for (block, kv) in self.blocks.iter().zip(key_values) {
            positions = block.forward(&positions, kv)?;
        }
        let before = hidden_states.reshape((batch, height * width, channels))?;
        let after = self.proj_out.forward_add(&positions, &before)?;
        Ok(after.reshape((batch, height, width, channels))?)
    }
}

/// `x += attn1(norm1 x)`, `x += attn2(norm2 x, K, V)`, `x += ff(norm3 x)`.
///
/// | weight                                       | shape                                      |
/// |----------------------------------------------|--------------------------------------------|
/// | `norm{1,2,3}.weight`, `.bias`                | `(inner,)`                                 |
/// | `attn1.to_{q,k,v}.weight`                    | `(inner, inner)`                           |
/// | `attn1.to_out.0.weight`, `.bias`             | `(inner, inner)`, `(inner,)`               |
/// | `attn2.*`                                    | see [`CrossAttention`]                     |
/// | `ff.net.0.proj.weight`, `.bias`              | `(8·inner, inner)`, `(8·inner,)`           |
/// | `ff.net.2.weight`, `.bias`                   | `(inner, 4·inner)`, `(inner,)`             |
struct TransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff_proj: Geglu,
    ff_out: FrozenLinear,
}

impl TransformerBlock {
    fn load(
        config: &UNet2DConditionConfig,
        (inner, heads): (usize, usize),
        weights: &Weights<'_>,
        cross_attention: &mut Vec<CrossAttentionKv>,
    ) -> Result<Self> {
        let norm = |name: &str| layer_norm(&weights.at(name), inner, LAYER_NORM_EPS);
        let (attn1, attn2) = (weights.at("attn1"), weights.at("attn2"));

        let text_dim = config.cross_attention_dim();
        let to_k = attn2.get("to_k.weight", &[inner, text_dim])?;
        let to_v = attn2.get("to_v.weight", &[inner, text_dim])?;
        cross_attention.push(CrossAttentionKv {
            name: attn2.prefix().to_owned(),
            frozen_k: FrozenLinear::new(to_k.clone(), None)?,
            frozen_v: FrozenLinear::new(to_v.clone(), None)?,
            to_k,
            to_v,
        });
        Ok(Self {
            norm1: norm("norm1")?,
            attn1: SelfAttention {
                to_q: linear_without_bias(&attn1.at("to_q"), inner, inner)?,
                to_k: linear_without_bias(&attn1.at("to_k"), inner, inner)?,
                to_v: linear_without_bias(&attn1.at("to_v"), inner, inner)?,
                to_out: linear(&attn1.at("to_out.0"), inner, inner)?,
                heads,
                precision: weights.precision(),
            },
            norm2: norm("norm2")?,
            attn2: CrossAttention {
                to_q: linear_without_bias(&attn2.at("to_q"), inner, inner)?,
                to_out: linear(&attn2.at("to_out.0"), inner, inner)?,
                heads,
                precision: weights.precision(),
                layer: cross_attention.len() - 1,
            },
            norm3: norm("norm3")?,
            ff_proj: geglu(&weights.at("ff.net.0.proj"), 4 * inner, inner)?,
            ff_out: linear(&weights.at("ff.net.2"), inner, 4 * inner)?,
        })
    }

    /// `(batch, h·w, inner)` → the same.
    fn forward(&self, hidden_states: &Variable, kv: &KeyValueVariable) -> Result<Variable> {
        let attended = self.attn1.forward(&self.norm1.forward(hidden_states)?)?;
        let hidden_states = self.attn1.to_out.forward_add(&attended, hidden_states)?;

        let attended = self.attn2.forward(&self.norm2.forward(&hidden_states)?, kv)?;
        let hidden_states = self.attn2.to_out.forward_add(&attended, &hidden_states)?;

        let gated = self.ff_proj.forward(&self.norm3.forward(&hidden_states)?)?; // (batch, h·w, 4·inner)
        Ok(self.ff_out.forward_add(&gated, &hidden_states)?)
    }
}

/// Multi-head attention of image positions to each other.
struct SelfAttention {
    to_q: FrozenLinear,
    to_k: FrozenLinear,
    to_v: FrozenLinear,
    to_out: FrozenLinear,
    heads: usize,
    precision: Precision,
}

impl SelfAttention {
    /// `(batch, h·w, inner)` → the same, before `to_out`.
    fn forward(&self, hidden_states: &Variable) -> Result<Variable> {
        let query = self.to_q.forward(hidden_states)?;
        let key = self.to_k.forward(hidden_states)?;
        let value = self.to_v.forward(hidden_states)?;
        attend([&query, &key, &value], self.heads, self.precision)
    }
}

/// Multi-head attention from image features `x` to the encoded prompt `c`.
///
/// `softmax(Q Kᵀ / √head_dim) V` with `Q = W_q x`. `K = W_k c` and `V = W_v c` are inputs. They are the same at every
/// step, and they are all in which one concept differs from another.
///
/// | weight                       | shape, with `inner = heads · head_dim` |
/// |------------------------------|----------------------------------------|
/// | `to_q.weight`                | `(inner, inner)`                       |
/// | `to_out.0.weight`, `.bias`   | `(inner, inner)`, `(inner,)`           |
/// | `to_k.weight`, `to_v.weight` | `(inner, cross_attention_dim)`, in [`CrossAttentionKv`] |
struct CrossAttention {
    to_q: FrozenLinear,
    to_out: FrozenLinear,
    heads: usize,
    precision: Precision,
    /// Which of the model's cross-attention layers this is.
    layer: usize,
}

impl CrossAttention {
    /// Lets every image position gather from every token of its element's prompt.
    ///
    /// - `hidden_states`: `(batch, h·w, inner)`
    /// - `kv.key`, `kv.value`: `(batch, tokens, inner)`
    /// - returns `(batch, h·w, inner)`, before `to_out`
    fn forward(&self, hidden_states: &Variable, kv: &KeyValueVariable) -> Result<Variable> {
        let query = self.to_q.forward(hidden_states)?;
        if let Some(watch) = &kv.watch {
            watch.record(query.tensor(), kv.key.tensor(), self.heads)?;
        }
        attend([&query, &kv.key, &kv.value], self.heads, self.precision)
    }
}

/// `(batch, queries, inner)` and twice `(batch, keys, inner)` → `(batch, queries, inner)`.
fn attend(
    [query, key, value]: [&Variable; 3],
    heads: usize,
    precision: Precision,
) -> Result<Variable> {
    let head_dim = query.tensor().dim(D::Minus1)? / heads;
    let scale = (head_dim as f64).powf(-0.5);
    Ok(ops::attention(query, key, value, heads, scale, None, precision)?)
}
