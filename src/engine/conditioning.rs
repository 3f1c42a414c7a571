//! Prompt and deltas to K and V per layer: all that the UNet sees of either.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Tensor};

use super::{
    EngineError, Result,
    base_model::BaseModel,
    clip::TokenIds,
    custom_diffusion::{
        delta::{Delta, DeltaConcept, DeltaWeights},
        merge::Merge,
        tokens::initializer_id,
    },
    ops,
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

    /// Memory that the keys and values take.
    pub fn size_bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        self.layers.iter().map(|kv| bytes(&kv.key) + bytes(&kv.value)).sum()
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
    /// How far from the base model, 0, to the delta as it was learnt, 1: multiplies ΔW, and moves the modifier token's
    /// row as far from its initializer's. At 0 a prompt with the token is the base model's with the initializer.
    pub strength: f64,
}

/// The concepts of one request, resolved once for all of its prompts.
///
/// `K_l = W₀ c + strength · ΔW_l c`, likewise V, where `c` is the prompt encoded with the concepts' token rows at that
/// strength.
#[derive(Clone)]
pub struct ConceptSet {
    tokens: Vec<TokenRow>,
    change: Change,
    strength: f64,
}

/// What the concepts add to the base model's keys and values.
#[derive(Clone)]
enum Change {
    /// One delta's, layer by layer; none for the base model.
    Delta(Vec<LayerChange>),
    /// That of several deltas, from their packs.
    Merge(Arc<Merge>),
}

/// The row of the token table that a modifier token has.
#[derive(Clone)]
struct TokenRow {
    token: String,
    /// What its training started from: the initializer token's; `None` where a delta does not say.
    start: Option<Vec<f32>>,
    learnt: Vec<f32>,
    /// Its delta's share in a merge.
    strength: f64,
}

/// What the concepts add to one cross-attention layer, in f32 on the device.
#[derive(Clone)]
struct LayerChange {
    key: Option<WeightChange>,
    value: Option<WeightChange>,
}

#[derive(Clone)]
enum WeightChange {
    /// The whole matrix in place of the base's, `(inner, text_dim)`.
    Replaced(Tensor),
    /// `E`, `(inner, s)`, and `P`, `(s, text_dim)`: `ΔW = E P`.
    LowRank(Tensor, Tensor),
}

impl ConceptSet {
    /// Checks that the concepts belong to this base model, and gathers their tokens and weights.
    ///
    /// Two or more deltas are not for this: what they change overlaps, so their sum would be wrong. See
    /// [`Self::merged`].
    pub fn new(base: &BaseModel, concepts: &[ConceptUse]) -> Result<Self> {
        let mut set = Self { tokens: Vec::new(), change: Change::Delta(Vec::new()), strength: 1.0 };
        match concepts {
            [] => {}
            [concept] => {
                concept.delta.check_base(base)?;
                for learnt in &concept.delta.concepts {
                    set.tokens.extend(token_row(base, learnt, 1.0)?);
                }
                set.change = Change::Delta(layer_changes(base, &concept.delta)?);
                set.strength = concept.strength;
            }
            several => {
                let text = format!(
                    "{} deltas must be merged before they are used together",
                    several.len()
                );
                return Err(EngineError::InvalidInput(text));
            }
        }
        Ok(set)
    }

    /// The concepts of several deltas, merged.
    pub fn merged(base: &BaseModel, merge: Arc<Merge>) -> Result<Self> {
        let mut tokens = Vec::new();
        for (learnt, strength) in &merge.concepts {
            tokens.extend(token_row(base, learnt, *strength)?);
        }
        Ok(Self { tokens, change: Change::Merge(merge), strength: 1.0 })
    }

    /// The same concepts at `share` of their strength.
    pub fn scaled(&self, share: f64) -> Self {
        Self { strength: self.strength * share, ..self.clone() }
    }

    /// Encodes a prompt and projects it: K and V of one row.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] as [`prompt_tokens`] says, [`EngineError::WithoutEffect`] if the prompt's K and V
    /// are the base model's although a concept takes part: its image would silently be the base model's.
    pub fn condition(&self, base: &BaseModel, prompt: &str) -> Result<Conditioning> {
        let added: Vec<&str> = self.tokens.iter().map(|row| row.token.as_str()).collect();
        let tokens = prompt_tokens(base, &added, prompt)?;
        // Without a modifier token the weights alone have to make the difference, but a merge leaves the empty prompt as
        // it is on purpose.
        let must_change = self.strength > 0.0
            && !self.is_base_model()
            && !prompt.trim().is_empty()
            && tokens.ids.iter().all(|&id| (id as usize) < base.tokenizer.vocab_size());
        let (conditioning, changed) = self.project(base, tokens)?;
        match must_change && !changed {
            true => Err(EngineError::WithoutEffect { prompt: prompt.to_owned() }),
            false => Ok(conditioning),
        }
    }

    fn is_base_model(&self) -> bool {
        match &self.change {
            Change::Delta(changes) => changes.is_empty(),
            Change::Merge(merge) => merge.concepts.iter().all(|(_, strength)| *strength <= 0.0),
        }
    }

    /// Tokenizes a prompt with the concepts' modifier tokens beside the vocabulary.
    pub fn tokenize(&self, base: &BaseModel, prompt: &str) -> Result<TokenIds> {
        let added: Vec<&str> = self.tokens.iter().map(|row| row.token.as_str()).collect();
        base.tokenizer.encode(prompt, &added)
    }

    /// K and V of a prompt that [`Self::tokenize`] has taken apart, and cut if it was too long.
    pub fn condition_tokens(&self, base: &BaseModel, tokens: TokenIds) -> Result<Conditioning> {
        Ok(self.project(base, tokens)?.0)
    }

    /// K and V, and whether they are others than the base model's of the same features.
    fn project(&self, base: &BaseModel, tokens: TokenIds) -> Result<(Conditioning, bool)> {
        let rows = self.rows(base)?;
        let text = base.text_encoder.forward(&[tokens.ids], rows.as_ref())?; // (1, tokens, dim)
        let mut conditioning = base.unet.project(&text)?;
        // At 0 the base model's own products stay as they are, to the last bit.
        if self.strength <= 0.0 {
            return Ok((conditioning, false));
        }
        let text = text.to_dtype(DType::F32)?.squeeze(0)?; // (tokens, dim)
        let mut changed = false;
        let mut replace = |kv: &mut KeyValue, key: Tensor, value: Tensor| -> Result<()> {
            changed = changed || differ(&kv.key, &key)? || differ(&kv.value, &value)?;
            *kv = KeyValue { key, value };
            Ok(())
        };
        match &self.change {
            Change::Delta(changes) => {
                for (kv, change) in conditioning.layers.iter_mut().zip(changes) {
                    let key = apply(&kv.key, change.key.as_ref(), &text, self.strength)?;
                    let value = apply(&kv.value, change.value.as_ref(), &text, self.strength)?;
                    replace(kv, key, value)?;
                }
            }
            Change::Merge(merge) => {
                let added = merge.change(&text, base.unet.cross_attention())?;
                for (kv, added) in conditioning.layers.iter_mut().zip(&added) {
                    let key = add(&kv.key, &added.key, self.strength)?;
                    let value = add(&kv.value, &added.value, self.strength)?;
                    replace(kv, key, value)?;
                }
            }
        }
        Ok((conditioning, changed))
    }

    /// The modifier tokens' rows at this strength, `(modifier tokens, text_dim)`.
    fn rows(&self, base: &BaseModel) -> Result<Option<Tensor>> {
        if self.tokens.is_empty() {
            return Ok(None);
        }
        let rows: Vec<f32> = self.tokens.iter().flat_map(|row| row.at(self.strength)).collect();
        let shape = (self.tokens.len(), base.text_encoder.hidden_size());
        Ok(Some(Tensor::from_vec(rows, shape, &base.device)?))
    }
}

/// Takes a prompt apart, with `added` modifier tokens beside the vocabulary.
///
/// # Errors
/// [`EngineError::InvalidInput`] for a prompt that would be cut, and for `<words>` that are not among `added`: they would
/// fall apart into ordinary tokens.
pub fn prompt_tokens(base: &BaseModel, added: &[&str], prompt: &str) -> Result<TokenIds> {
    for (start, _) in prompt.match_indices('<') {
        let rest = &prompt[start + 1..];
        let Some(end) = rest.find('>') else { continue };
        let word = &rest[..end];
        let like_a_token = !word.is_empty()
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let token = format!("<{word}>");
        if like_a_token && !added.iter().any(|known| known.eq_ignore_ascii_case(&token)) {
            return Err(EngineError::InvalidInput(format!(
                "prompt `{prompt}` names {token}, which no concept of this request has"
            )));
        }
    }
    let tokens = base.tokenizer.encode(prompt, added)?;
    let limit = base.tokenizer.max_length();
    if tokens.length > limit {
        return Err(EngineError::InvalidInput(format!(
            "prompt `{prompt}` is {} tokens long with its begin and end marks, the limit is {limit}",
            tokens.length
        )));
    }
    Ok(tokens)
}

/// K and V of one prompt with its concepts.
pub fn condition_prompt(
    base: &BaseModel,
    prompt: &str,
    concepts: &[ConceptUse],
) -> Result<Conditioning> {
    ConceptSet::new(base, concepts)?.condition(base, prompt)
}

impl TokenRow {
    /// `E₀ + strength (E − E₀)`; a row whose start is not known is what it is at any strength.
    fn at(&self, share: f64) -> Vec<f32> {
        let strength = share * self.strength;
        match &self.start {
            Some(start) if !is_full(strength) => {
                let pairs = start.iter().zip(&self.learnt);
                pairs.map(|(start, end)| start + strength as f32 * (end - start)).collect()
            }
            Some(_) | None => self.learnt.clone(),
        }
    }
}

/// The row of a concept's modifier token at a strength; `None` for a concept without a token.
pub fn row_at(base: &BaseModel, learnt: &DeltaConcept, strength: f64) -> Result<Option<Vec<f32>>> {
    Ok(token_row(base, learnt, strength)?.map(|row| row.at(1.0)))
}

fn token_row(base: &BaseModel, learnt: &DeltaConcept, strength: f64) -> Result<Option<TokenRow>> {
    let (Some(token), Some(row)) = (&learnt.modifier_token, &learnt.token_row) else {
        return Ok(None);
    };
    let start = match &learnt.initializer_token {
        Some(name) => Some(base.text_encoder.token_row(initializer_id(base, name)?)?),
        None => None,
    };
    let (token, learnt) = (token.as_str().to_owned(), row.clone());
    Ok(Some(TokenRow { token, start, learnt, strength }))
}

fn layer_changes(base: &BaseModel, delta: &Delta) -> Result<Vec<LayerChange>> {
    let device = &base.device;
    let on_device =
        |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.to_dtype(DType::F32)?.to_device(device)?) };
    let low_rank = match &delta.weights {
        DeltaWeights::LowRank { p, .. } => Some(on_device(p)?),
        DeltaWeights::Dense(_) => None,
    };
    let change = |name: String| -> Result<Option<WeightChange>> {
        let of_layer: &BTreeMap<String, Tensor> = match &delta.weights {
            DeltaWeights::Dense(weights) => weights,
            DeltaWeights::LowRank { e, .. } => e,
        };
        let Some(learnt) = of_layer.get(&name) else { return Ok(None) };
        let learnt = on_device(learnt)?;
        Ok(Some(match &low_rank {
            Some(p) => WeightChange::LowRank(learnt, p.clone()),
            None => WeightChange::Replaced(learnt),
        }))
    };
    let layer = |kv: &super::unet::CrossAttentionKv| -> Result<LayerChange> {
        Ok(LayerChange {
            key: change(format!("{}.to_k.weight", kv.name))?,
            value: change(format!("{}.to_v.weight", kv.name))?,
        })
    };
    base.unet.cross_attention().iter().map(layer).collect()
}

/// Whether a delta is used as it was learnt: then its own numbers stay, without rounding.
fn is_full(strength: f64) -> bool {
    (strength - 1.0).abs() < f64::EPSILON
}

/// `W₀ c + strength · ΔW c`.
///
/// - `projected`: `(1, tokens, inner)` of the base model
/// - `text`: `(tokens, text_dim)` in f32
fn apply(
    projected: &Tensor,
    change: Option<&WeightChange>,
    text: &Tensor,
    strength: f64,
) -> Result<Tensor> {
    let base = projected.squeeze(0)?.to_dtype(DType::F32)?; // (tokens, inner)
    let changed = match change {
        None => return Ok(projected.clone()),
        Some(WeightChange::Replaced(weight)) => {
            let whole = ops::matmul(text, &weight.t()?)?;
            if is_full(strength) { whole } else { (&base + ((whole - &base)? * strength)?)? }
        }
        Some(WeightChange::LowRank(e, p)) => {
            let shared = ops::matmul(text, &p.t()?)?; // (tokens, s)
            let added = ops::matmul(&shared, &e.t()?)?; // (tokens, inner)
            return add(projected, &added, strength);
        }
    };
    Ok(changed.unsqueeze(0)?.to_dtype(projected.dtype())?)
}

/// - `projected`: `(1, tokens, inner)`
/// - `added`: `(tokens, inner)` in f32, on any device
fn add(projected: &Tensor, added: &Tensor, strength: f64) -> Result<Tensor> {
    let added = (added.to_device(projected.device())?.unsqueeze(0)? * strength)?;
    Ok((projected.to_dtype(DType::F32)? + added)?.to_dtype(projected.dtype())?)
}

/// Whether any element does.
fn differ(a: &Tensor, b: &Tensor) -> Result<bool> {
    Ok(a.ne(b)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()? > 0.0)
}
