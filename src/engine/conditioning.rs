//! Prompt and deltas to K and V per layer: all that the UNet sees of either.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Tensor};

use super::{
    EngineError, Result,
    base_model::BaseModel,
    clip::TokenIds,
    custom_diffusion::delta::{Delta, DeltaWeights},
};

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

/// A delta in a request, and how much of it.
#[derive(Clone)]
pub struct ConceptUse {
    pub delta: Arc<Delta>,
    /// Multiplies the delta's ΔW: 0 is the base model, 1 the delta as it was learnt.
    pub strength: f64,
}

/// The concepts of one request, resolved once for all of its prompts.
///
/// `K_l = W₀ c + Σ strength · ΔW_l c`, likewise V, where `c` is the prompt encoded with the concepts' token rows.
pub struct ConceptSet {
    tokens: Vec<String>,
    rows: Option<Tensor>,
    changes: Vec<LayerChange>,
}

/// What the concepts add to one cross-attention layer, in f32 on the device.
struct LayerChange {
    key: Option<WeightChange>,
    value: Option<WeightChange>,
}

enum WeightChange {
    /// The whole matrix in place of the base's, `(inner, text_dim)`.
    Replaced(Tensor),
    /// `E`, `(inner, s)`, and `P`, `(s, text_dim)`: `ΔW = E P`.
    LowRank(Tensor, Tensor),
}

impl ConceptSet {
    /// Checks that the concepts belong to this base model, and gathers their tokens and weights.
    ///
    /// Two or more deltas are first merged by the caller, by [`merge`]: what they change overlaps, so their sum would
    /// be wrong.
    ///
    /// [`merge`]: super::custom_diffusion::merge::merge
    pub fn new(base: &BaseModel, concepts: &[ConceptUse]) -> Result<Self> {
        if concepts.len() > 1 {
            let text =
                format!("{} deltas must be merged before they are used together", concepts.len());
            return Err(EngineError::InvalidInput(text));
        }
        let mut tokens = Vec::new();
        let mut rows = Vec::new();
        let mut changes = Vec::new();
        for concept in concepts {
            concept.delta.check_base(base)?;
            for learnt in &concept.delta.concepts {
                if let (Some(token), Some(row)) = (&learnt.modifier_token, &learnt.token_row) {
                    tokens.push(token.as_str().to_owned());
                    rows.push(Tensor::new(row.as_slice(), &base.device)?);
                }
            }
            changes = layer_changes(base, concept)?;
        }
        let rows = if rows.is_empty() { None } else { Some(Tensor::stack(&rows, 0)?) }; // (tokens, dim)
        Ok(Self { tokens, rows, changes })
    }

    /// Encodes a prompt and projects it: K and V of one row.
    pub fn condition(&self, base: &BaseModel, prompt: &str) -> Result<Conditioning> {
        self.check_words(prompt)?;
        let tokens = self.tokenize(base, prompt)?;
        let limit = base.tokenizer.max_length();
        if tokens.length > limit {
            return Err(EngineError::InvalidInput(format!(
                "prompt `{prompt}` is {} tokens long with its begin and end marks, the limit is {limit}",
                tokens.length
            )));
        }
        self.condition_tokens(base, tokens)
    }

    /// Tokenizes a prompt with the concepts' modifier tokens beside the vocabulary.
    pub fn tokenize(&self, base: &BaseModel, prompt: &str) -> Result<TokenIds> {
        let added: Vec<&str> = self.tokens.iter().map(String::as_str).collect();
        base.tokenizer.encode(prompt, &added)
    }

    /// K and V of a prompt that [`Self::tokenize`] has taken apart, and cut if it was too long.
    pub fn condition_tokens(&self, base: &BaseModel, tokens: TokenIds) -> Result<Conditioning> {
        let text = base.text_encoder.forward(&[tokens.ids], self.rows.as_ref())?; // (1, tokens, dim)
        let mut conditioning = base.unet.project(&text)?;
        let text = text.to_dtype(DType::F32)?.squeeze(0)?; // (tokens, dim)
        for (kv, change) in conditioning.layers.iter_mut().zip(&self.changes) {
            kv.key = apply(&kv.key, change.key.as_ref(), &text)?;
            kv.value = apply(&kv.value, change.value.as_ref(), &text)?;
        }
        Ok(conditioning)
    }

    /// Refuses `<words>` that no concept of the request has: they would fall apart into ordinary tokens.
    fn check_words(&self, prompt: &str) -> Result<()> {
        for (start, _) in prompt.match_indices('<') {
            let rest = &prompt[start + 1..];
            let Some(end) = rest.find('>') else { continue };
            let word = &rest[..end];
            let like_a_token = !word.is_empty()
                && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
            let token = format!("<{word}>");
            if like_a_token && !self.tokens.iter().any(|known| known.eq_ignore_ascii_case(&token)) {
                return Err(EngineError::InvalidInput(format!(
                    "prompt `{prompt}` names {token}, which no concept of this request has"
                )));
            }
        }
        Ok(())
    }
}

/// K and V of one prompt with its concepts.
pub fn condition_prompt(
    base: &BaseModel,
    prompt: &str,
    concepts: &[ConceptUse],
) -> Result<Conditioning> {
    ConceptSet::new(base, concepts)?.condition(base, prompt)
}

fn layer_changes(base: &BaseModel, concept: &ConceptUse) -> Result<Vec<LayerChange>> {
    let device = &base.device;
    let on_device =
        |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.to_dtype(DType::F32)?.to_device(device)?) };
    let low_rank = match &concept.delta.weights {
        DeltaWeights::LowRank { p, .. } => Some(on_device(p)?),
        DeltaWeights::Dense(_) => None,
    };
    let change = |name: String, base_weight: &Tensor| -> Result<Option<WeightChange>> {
        let of_layer: &BTreeMap<String, Tensor> = match &concept.delta.weights {
            DeltaWeights::Dense(weights) => weights,
            DeltaWeights::LowRank { e, .. } => e,
        };
        let Some(learnt) = of_layer.get(&name) else { return Ok(None) };
        let learnt = on_device(learnt)?;
        Ok(Some(match &low_rank {
            Some(p) => WeightChange::LowRank((learnt * concept.strength)?, p.clone()),
            None => WeightChange::Replaced(blend(
                &base_weight.to_dtype(DType::F32)?,
                learnt,
                concept.strength,
            )?),
        }))
    };
    let layer = |kv: &super::unet::CrossAttentionKv| -> Result<LayerChange> {
        Ok(LayerChange {
            key: change(format!("{}.to_k.weight", kv.name), &kv.to_k)?,
            value: change(format!("{}.to_v.weight", kv.name), &kv.to_v)?,
        })
    };
    base.unet.cross_attention().iter().map(layer).collect()
}

/// `W₀ + strength (W − W₀)`, which is `W` itself, without rounding, at full strength.
fn blend(base: &Tensor, learnt: Tensor, strength: f64) -> Result<Tensor> {
    if (strength - 1.0).abs() < f64::EPSILON {
        return Ok(learnt);
    }
    Ok((base + ((learnt - base)? * strength)?)?)
}

/// - `projected`: `(1, tokens, inner)` of the base model
/// - `text`: `(tokens, text_dim)` in f32
fn apply(projected: &Tensor, change: Option<&WeightChange>, text: &Tensor) -> Result<Tensor> {
    let changed = match change {
        None => return Ok(projected.clone()),
        Some(WeightChange::Replaced(weight)) => text.matmul(&weight.t()?)?,
        Some(WeightChange::LowRank(e, p)) => {
            let added = text.matmul(&p.t()?)?.matmul(&e.t()?)?; // (tokens, s), then (tokens, inner)
            (projected.squeeze(0)?.to_dtype(DType::F32)? + added)?
        }
    };
    Ok(changed.unsqueeze(0)?.to_dtype(projected.dtype())?)
}
