//! The attending half of a block: pixels to each other, then to the prompt.

use candle_core::{D, Tensor};

use super::{CrossAttentionKv, config::UNet2DConditionConfig};
use crate::engine::{
    Result,
    conditioning::{Conditioning, KeyValue},
    layers::{add_residual, conv_same, group_norm, layer_norm, linear, linear_without_bias},
    ops::{self, FrozenConv2d, FrozenLinear, GroupNorm, LayerNorm},
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
/// | `proj_in.weight`, `.bias`    | `(inner, channels, 1, 1)`, or `(inner, channels)` with `use_linear_projection`; `(inner,)` |
/// | `transformer_blocks.N.*`     | see [`TransformerBlock`]                                            |
/// | `proj_out.weight`, `.bias`   | `(channels, inner[, 1, 1])`, `(channels,)`                          |
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Projection,
    blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

/// SD 1.x convolves before it lists the positions, SD 2.x multiplies after.
enum Projection {
    Conv(FrozenConv2d),
    Linear(FrozenLinear),
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
        let projection = |name: &str, rows: usize, columns: usize| -> Result<Projection> {
            match config.use_linear_projection {
                true => Ok(Projection::Linear(linear(&weights.at(name), rows, columns)?)),
                false => Ok(Projection::Conv(conv_same(&weights.at(name), (rows, columns), 1)?)),
            }
        };
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
            proj_in: projection("proj_in", inner, channels)?,
            blocks,
            proj_out: projection("proj_out", channels, inner)?,
        })
    }

    /// `(batch, channels, h, w)` → the same.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        conditioning: &Conditioning,
    ) -> Result<Tensor> {
        let (_, _, height, width) = hidden_states.dims4()?;
        let normed = self.norm.forward(hidden_states)?;
        let mut positions = match &self.proj_in {
            Projection::Conv(conv) => list_positions(&conv.forward(&normed)?)?, // (batch, h·w, inner)
            Projection::Linear(linear) => linear.forward(&list_positions(&normed)?)?,
        };
        for block in &self.blocks {
            positions = block.forward(&positions, conditioning)?;
        }
        let image = match &self.proj_out {
            Projection::Conv(conv) => conv.forward(&as_image(&positions, height, width)?)?, // (batch, channels, h, w)
            Projection::Linear(linear) => as_image(&linear.forward(&positions)?, height, width)?,
        };
        add_residual(hidden_states, &image)
    }
}

/// `(batch, channels, h, w)` → `(batch, h·w, channels)`.
fn list_positions(x: &Tensor) -> Result<Tensor> {
    Ok(ops::transpose_last(&x.flatten_from(2)?)?)
}

/// `(batch, h·w, channels)` → `(batch, channels, h, w)`.
fn as_image(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, _, channels) = x.dims3()?;
    Ok(ops::transpose_last(x)?.reshape((batch, channels, height, width))?)
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
    ff_proj: FrozenLinear,
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
            },
            norm2: norm("norm2")?,
            attn2: CrossAttention {
                to_q: linear_without_bias(&attn2.at("to_q"), inner, inner)?,
                to_out: linear(&attn2.at("to_out.0"), inner, inner)?,
                heads,
                layer: cross_attention.len() - 1,
            },
            norm3: norm("norm3")?,
            ff_proj: linear(&weights.at("ff.net.0.proj"), 8 * inner, inner)?,
            ff_out: linear(&weights.at("ff.net.2"), inner, 4 * inner)?,
        })
    }

    /// `(batch, h·w, inner)` → the same.
    fn forward(&self, hidden_states: &Tensor, conditioning: &Conditioning) -> Result<Tensor> {
        let attended = self.attn1.forward(&self.norm1.forward(hidden_states)?)?;
        let hidden_states = add_residual(hidden_states, &attended)?;

        let kv = &conditioning.layers[self.attn2.layer];
        let attended = self.attn2.forward(&self.norm2.forward(&hidden_states)?, kv)?;
        let hidden_states = add_residual(&hidden_states, &attended)?;

        let expanded = self.ff_proj.forward(&self.norm3.forward(&hidden_states)?)?; // (batch, h·w, 8·inner)
        let gated = ops::geglu(&expanded)?; // (batch, h·w, 4·inner)
        add_residual(&hidden_states, &self.ff_out.forward(&gated)?)
    }
}

/// Multi-head attention of image positions to each other.
struct SelfAttention {
    to_q: FrozenLinear,
    to_k: FrozenLinear,
    to_v: FrozenLinear,
    to_out: FrozenLinear,
    heads: usize,
}

impl SelfAttention {
    /// `(batch, h·w, inner)` → the same.
    fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        let query = self.to_q.forward(hidden_states)?;
        let key = self.to_k.forward(hidden_states)?;
        let value = self.to_v.forward(hidden_states)?;
        Ok(self.to_out.forward(&attend(&query, &key, &value, self.heads)?)?)
    }
}

/// Multi-head attention from image features `x` to the encoded prompt `c`.
///
/// `softmax(Q Kᵀ / √head_dim) V` with `Q = W_q x`. `K = W_k c` and `V = W_v c` arrive ready in the row's
/// [`Conditioning`]: they are the same at every step, and all in which one concept differs from another.
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
    /// Which of [`Conditioning::layers`] is this one's.
    layer: usize,
}

impl CrossAttention {
    /// Lets every image position gather from every token of its row's prompt.
    ///
    /// - `hidden_states`: `(batch, h·w, inner)`
    /// - `kv.key`, `kv.value`: `(batch, tokens, inner)`
    /// - returns `(batch, h·w, inner)`
    fn forward(&self, hidden_states: &Tensor, kv: &KeyValue) -> Result<Tensor> {
        let query = self.to_q.forward(hidden_states)?;
        Ok(self.to_out.forward(&attend(&query, &kv.key, &kv.value, self.heads)?)?)
    }
}

/// `(batch, queries, inner)` and twice `(batch, keys, inner)` → `(batch, queries, inner)`.
fn attend(query: &Tensor, key: &Tensor, value: &Tensor, heads: usize) -> Result<Tensor> {
    let head_dim = query.dim(D::Minus1)? / heads;
    Ok(ops::attention(query, key, value, heads, (head_dim as f64).powf(-0.5), None)?)
}
