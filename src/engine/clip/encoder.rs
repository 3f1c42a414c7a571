//! The transformer that CLIP's text and vision towers share.

use std::path::Path;

use candle_core::{D, Tensor};
use serde::Deserialize;

use crate::engine::{
    autograd::Variable,
    error::{EngineError, Result},
    layers::{layer_norm, linear_of_few_rows},
    ops::{self, FrozenLinear, LayerNorm, Precision},
    weights::Weights,
};

/// The fields that both towers' configs have.
#[derive(Clone, Copy, Debug)]
pub(super) struct EncoderConfig {
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_attention_heads: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) hidden_act: HiddenAct,
    pub(super) layer_norm_eps: f64,
}

/// The activation between the two layers of each MLP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HiddenAct {
    #[default]
    QuickGelu,
    Gelu,
}

impl EncoderConfig {
    /// The width must divide into heads.
    ///
    /// - `path`: the config file, which the error names
    pub(super) fn check(self, path: &Path) -> Result<()> {
        let heads = self.num_attention_heads;
        if heads > 0 && self.hidden_size.is_multiple_of(heads) {
            return Ok(());
        }
        Err(EngineError::ModelFile {
            path: path.display().to_string(),
            reason: format!("`num_attention_heads` {heads} does not divide `hidden_size`"),
        })
    }
}

/// A stack of layers, each of which computes `h += attn(LN1 h)` and `h += mlp(LN2 h)`.
///
/// | weight       | shape              |
/// |--------------|--------------------|
/// | `layers.N.*` | see `EncoderLayer` |
pub(super) struct Encoder {
    layers: Vec<EncoderLayer>,
}

impl Encoder {
    /// Takes the weights of all layers.
    pub(super) fn new(config: EncoderConfig, weights: &Weights<'_>) -> Result<Self> {
        let layer = |i: usize| EncoderLayer::new(config, &weights.at("layers").at(i));
        Ok(Self { layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()? })
    }

    /// - `mask`: `(tokens, tokens)`, added to the logits of every head
    /// - `(batch, tokens, hidden_size)` → the same
    pub(super) fn forward(
        &self,
        mut hidden_states: Variable,
        mask: Option<&Tensor>,
    ) -> Result<Variable> {
        for layer in &self.layers {
            hidden_states = layer.forward(&hidden_states, mask)?;
        }
        Ok(hidden_states)
    }
}

/// One layer.
///
/// | weight                                                       | shape                           |
/// |--------------------------------------------------------------|---------------------------------|
/// | `self_attn.{q,k,v,out}_proj.weight`, `.bias`                 | `(dim, dim)`, `(dim,)`          |
/// | `layer_norm1`, `layer_norm2`: `.weight`, `.bias`             | `(dim,)`                        |
/// | `mlp.fc1.weight`, `.bias`                                    | `(intermediate_size, dim)`, `(intermediate_size,)` |
/// | `mlp.fc2.weight`, `.bias`                                    | `(dim, intermediate_size)`, `(dim,)` |
struct EncoderLayer {
    layer_norm1: LayerNorm,
    q_proj: FrozenLinear,
    k_proj: FrozenLinear,
    v_proj: FrozenLinear,
    out_proj: FrozenLinear,
    layer_norm2: LayerNorm,
    fc1: FrozenLinear,
    fc2: FrozenLinear,
    hidden_act: HiddenAct,
    heads: usize,
    precision: Precision,
}

impl EncoderLayer {
    fn new(config: EncoderConfig, weights: &Weights<'_>) -> Result<Self> {
        let (dim, intermediate) = (config.hidden_size, config.intermediate_size);
        let attention = weights.at("self_attn");
        Ok(Self {
            layer_norm1: layer_norm(&weights.at("layer_norm1"), dim, config.layer_norm_eps)?,
            q_proj: linear_of_few_rows(&attention.at("q_proj"), dim, dim)?,
            k_proj: linear_of_few_rows(&attention.at("k_proj"), dim, dim)?,
            v_proj: linear_of_few_rows(&attention.at("v_proj"), dim, dim)?,
            out_proj: linear_of_few_rows(&attention.at("out_proj"), dim, dim)?,
            layer_norm2: layer_norm(&weights.at("layer_norm2"), dim, config.layer_norm_eps)?,
            fc1: linear_of_few_rows(&weights.at("mlp.fc1"), intermediate, dim)?,
            fc2: linear_of_few_rows(&weights.at("mlp.fc2"), dim, intermediate)?,
            hidden_act: config.hidden_act,
            heads: config.num_attention_heads,
            precision: weights.precision(),
        })
    }

    /// `(batch, tokens, dim)` → the same.
    fn forward(&self, hidden_states: &Variable, mask: Option<&Tensor>) -> Result<Variable> {
        let normed = self.layer_norm1.forward(hidden_states)?;
        let query = self.q_proj.forward(&normed)?; // (batch, tokens, dim)
        let key = self.k_proj.forward(&normed)?;
        let value = self.v_proj.forward(&normed)?;
        let scale = ((query.tensor().dim(D::Minus1)? / self.heads) as f64).powf(-0.5);
        let gathered =
            ops::attention(&query, &key, &value, self.heads, scale, mask, self.precision)?;
        let hidden_states = self.out_proj.forward_add(&gathered, hidden_states)?;

        let normed = self.layer_norm2.forward(&hidden_states)?;
        let activated = match self.hidden_act {
            HiddenAct::QuickGelu => self.fc1.forward_quick_gelu(&normed)?, // (batch, tokens, intermediate)
            HiddenAct::Gelu => self.fc1.forward_gelu(&normed)?,
        };
        Ok(self.fc2.forward_add(&activated, &hidden_states)?)
    }
}
