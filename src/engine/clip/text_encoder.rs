//! CLIP's text transformer.

use std::path::Path;

use candle_core::{DType, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};

use super::encoder::{Encoder, EncoderConfig, HiddenAct};
use crate::engine::{
    autograd::Variable,
    error::{EngineError, Result},
    layers::{layer_norm, require},
    ops::{LayerNorm, TrainingCopies},
    split::Split,
    weights::{WeightFiles, Weights, from_json, read_json},
};

/// `text_encoder/config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct ClipTextConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_hidden_layers: usize,
    pub vocab_size: usize,
    #[serde(default = "default_max_position_embeddings")]
    pub max_position_embeddings: usize,
    #[serde(default)]
    pub hidden_act: HiddenAct,
    #[serde(default = "default_layer_norm_eps")]
    pub layer_norm_eps: f64,
}

impl ClipTextConfig {
    /// The number of the model's parameters.
    pub fn parameters(&self) -> u64 {
        let (dim, wide) = (self.hidden_size, self.intermediate_size);
        let mlp = 2 * dim * wide + wide + dim;
        let layer = 4 * (dim * dim + dim) + mlp + 4 * dim;
        let rows = self.vocab_size + self.max_position_embeddings;
        (rows * dim + self.num_hidden_layers * layer + 2 * dim) as u64
    }

    pub(super) fn encoder(&self) -> EncoderConfig {
        EncoderConfig {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_hidden_layers: self.num_hidden_layers,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
        }
    }
}

fn default_max_position_embeddings() -> usize {
    77
}

fn default_layer_norm_eps() -> f64 {
    1e-5
}

/// Turns token ids into the features that cross-attention reads.
///
/// `h = E[ids] + P`; per layer `h += attn(LN1 h)`, `h += mlp(LN2 h)`, where a token attends to itself and to earlier
/// ones; last, `LN_f h`. Rows of the embedding table beyond the vocabulary are the modifier rows of the caller.
///
/// | weight                                               | shape                          |
/// |------------------------------------------------------|--------------------------------|
/// | `embeddings.token_embedding.weight`                  | `(vocab_size, hidden_size)`    |
/// | `embeddings.position_embedding.weight`               | `(max_position_embeddings, hidden_size)` |
/// | `encoder.layers.N.*`                                 | see `Encoder`                  |
/// | `final_layer_norm.weight`, `.bias`                   | `(hidden_size,)`               |
///
/// Older checkpoints have all of these below `text_model.`.
pub struct ClipTextEncoder {
    config: ClipTextConfig,
    token_embedding: Tensor,
    position_embedding: Tensor,
    encoder: Encoder,
    final_layer_norm: LayerNorm,
    split: Split,
    copies: TrainingCopies,
}

impl ClipTextEncoder {
    /// Reads the config and takes the weights.
    pub fn load(dir: &Path, files: &WeightFiles) -> Result<Self> {
        let path = dir.join("config.json");
        let json: Value = read_json(&path)?;
        require(&path, &json, "model_type", &[json!("clip_text_model"), json!("clip")])?;
        let config: ClipTextConfig = from_json(&path, json)?;
        config.encoder().check(&path)?;
        let root = files.root();
        let prefixed = root.at("text_model");
        let weights = if prefixed.has("final_layer_norm.weight") { prefixed } else { root };
        Self::new(config, &weights, Split::of(files))
    }

    /// Takes the weights of a config that was checked.
    pub(super) fn new(config: ClipTextConfig, weights: &Weights<'_>, split: Split) -> Result<Self> {
        let dim = config.hidden_size;
        let embeddings = weights.at("embeddings");
        Ok(Self {
            token_embedding: embeddings.get("token_embedding.weight", &[config.vocab_size, dim])?,
            position_embedding: embeddings
                .get("position_embedding.weight", &[config.max_position_embeddings, dim])?,
            encoder: Encoder::new(config.encoder(), &weights.at("encoder"))?,
            final_layer_norm: layer_norm(
                &weights.at("final_layer_norm"),
                dim,
                config.layer_norm_eps,
            )?,
            split,
            copies: weights.training_copies().clone(),
            config,
        })
    }

    /// Encodes a batch of prompts of equal length.
    ///
    /// - `ids`: one list per prompt; id `vocab_size + i` is row `i` of `modifier_rows`
    /// - `modifier_rows`: `(n, hidden_size)`, in any float dtype
    /// - returns `(batch, tokens, hidden_size)`, after the final layer norm
    pub fn forward(&self, ids: &[Vec<u32>], modifier_rows: Option<&Tensor>) -> Result<Tensor> {
        let rows = modifier_rows.map(Variable::from);
        let encode = |range: std::ops::Range<usize>| -> Result<Tensor> {
            Ok(self.trace(&ids[range], rows.as_ref())?.into_tensor())
        };
        Ok(Tensor::cat(&self.split.map(ids.len(), encode)?, 0)?)
    }

    /// [`Self::forward`] with a backward pass to `modifier_rows`.
    pub fn trace(&self, ids: &[Vec<u32>], modifier_rows: Option<&Variable>) -> Result<Variable> {
        let tokens = self.check_lengths(ids)?;
        let hidden_states = self.embed(ids, modifier_rows)?; // (batch, tokens, dim)
        let mask = self.causal_mask(tokens)?;
        let hidden_states = self.encoder.forward(hidden_states, Some(&mask))?;
        Ok(self.final_layer_norm.forward(&hidden_states)?)
    }

    /// The copies of its weights that a training keeps.
    pub fn training_copies(&self) -> &TrainingCopies {
        &self.copies
    }

    /// How the elements of a batch are divided among the threads.
    pub(crate) fn split(&self) -> Split {
        self.split
    }

    /// One row of the embedding table, in f32: what a modifier token starts from.
    pub fn embedding_row(&self, id: u32) -> Result<Vec<f32>> {
        if id as usize >= self.config.vocab_size {
            return Err(EngineError::InvalidInput(format!("token {id} is not in the vocabulary")));
        }
        let row = self.token_embedding.get(id as usize)?.to_dtype(DType::F32)?;
        Ok(row.to_vec1()?)
    }

    /// The published config.
    pub fn config(&self) -> &ClipTextConfig {
        &self.config
    }

    /// Width of the features.
    pub fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    /// Rows of the embedding table.
    pub fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    /// The longest input that the position table covers.
    pub fn max_position_embeddings(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn check_lengths(&self, ids: &[Vec<u32>]) -> Result<usize> {
        let tokens = ids.first().map_or(0, Vec::len);
        if tokens == 0 || ids.iter().any(|prompt| prompt.len() != tokens) {
            return Err(EngineError::InvalidInput(
                "prompts of one batch must have the same number of tokens".into(),
            ));
        }
        let limit = self.config.max_position_embeddings;
        if tokens > limit {
            return Err(EngineError::InvalidInput(format!(
                "{tokens} tokens are more than the text encoder's {limit}"
            )));
        }
        Ok(tokens)
    }

    /// Embedding rows plus position rows, `(batch, tokens, dim)`; ids beyond the vocabulary are rows of `modifier_rows`.
    fn embed(&self, ids: &[Vec<u32>], modifier_rows: Option<&Variable>) -> Result<Variable> {
        let (vocab_size, dim) = (self.config.vocab_size, self.config.hidden_size);
        let modifiers = modifier_rows.map_or(Ok(0), |rows| rows.tensor().dim(0))?;
        let flat: Vec<u32> = ids.iter().flatten().copied().collect();
        if let Some(id) = flat.iter().find(|id| **id as usize >= vocab_size + modifiers) {
            return Err(EngineError::InvalidInput(format!(
                "token {id} has no row: neither vocabulary nor modifier"
            )));
        }
        let tokens = flat.len() / ids.len();
        let (device, dtype) = (self.token_embedding.device(), self.token_embedding.dtype());
        let positions = self.position_embedding.narrow(0, 0, tokens)?;
        let place = |rows: Tensor| -> Result<Tensor> {
            Ok(rows.reshape((ids.len(), tokens, dim))?.broadcast_add(&positions)?)
        };
        let in_table: Vec<u32> =
            flat.iter().map(|id| if (*id as usize) < vocab_size { *id } else { 0 }).collect();
        let rows = self.token_embedding.index_select(&Tensor::new(in_table, device)?, 0)?; // (batch·tokens, dim)
        let modifier = |id: &u32| (*id as usize).checked_sub(vocab_size);
        let Some(modifier_rows) =
            modifier_rows.filter(|_| flat.iter().any(|id| modifier(id).is_some()))
        else {
            return Ok(place(rows)?.into());
        };
        let count = flat.len();
        let joined = Tensor::cat(&[&rows, &modifier_rows.tensor().to_dtype(dtype)?], 0)?; // (batch·tokens + n, dim)
        let pick = |(at, id): (usize, &u32)| modifier(id).map_or(at, |row| count + row) as u32;
        let picked: Vec<u32> = flat.iter().enumerate().map(pick).collect();
        let embedded = place(joined.index_select(&Tensor::new(picked, device)?, 0)?)?;

        // A modifier row's gradient is the sum over its positions. No gradient of the table is computed; it would be
        // dense.
        let places =
            flat.iter().enumerate().filter_map(|(at, id)| Some((at as u32, modifier(id)? as u32)));
        let (places, rows): (Vec<u32>, Vec<u32>) = places.unzip();
        let shape = modifier_rows.tensor().clone();
        Ok(Variable::derived(embedded, [modifier_rows], move |gradient, _| {
            let gradient = gradient.reshape((count, dim))?.to_dtype(shape.dtype())?;
            let device = gradient.device();
            let of_places = gradient.index_select(&Tensor::new(places, device)?, 0)?;
            let sum = shape.zeros_like()?.index_add(&Tensor::new(rows, device)?, &of_places, 0)?;
            Ok([Some(sum)])
        }))
    }

    /// `(1, 1, tokens, tokens)`: the lowest number where a key comes after the query, else 0.
    fn causal_mask(&self, tokens: usize) -> Result<Tensor> {
        let value = |at: usize| if at % tokens > at / tokens { f32::MIN } else { 0.0 };
        let mask: Vec<f32> = (0..tokens * tokens).map(value).collect();
        let mask = Tensor::from_vec(mask, (tokens, tokens), self.token_embedding.device())?;
        Ok(mask.to_dtype(self.token_embedding.dtype())?)
    }
}
