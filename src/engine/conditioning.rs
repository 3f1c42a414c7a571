//! Concepts and prompts to K and V per layer; the only place that makes them for a sample.

mod own_words;

use std::sync::Arc;

use candle_core::{DType, Tensor};

use self::own_words::OwnWords;
use super::{
    base_model::BaseModel,
    clip::TokenIds,
    custom_diffusion::{delta::Delta, delta_weights::DeltaWeights, merge::Merge},
    error::{EngineError, Result},
    key_values::{KeyValue, KeyValues},
    ops,
    prompt::modifier_row::{ModifierRow, is_full_strength},
    unet::CrossAttentionKv,
};

/// A delta in a request, and how much of it.
#[derive(Clone)]
pub struct ConceptUse {
    pub delta: Arc<Delta>,
    /// From 0, the base model, to 1, the delta as it was learned. It multiplies ΔW, and moves the modifier token's
    /// embedding row from its initializer's by the same share (ADR 0012). At 0, the token means what its initializer
    /// means to the base model.
    pub strength: f64,
}

/// The concepts of one request, resolved once for all of its prompts.
///
/// `K_l = W₀ c + strength · ΔW_l c`, and V likewise, where `c` is the prompt encoded with the concepts' embedding rows
/// at that strength.
#[derive(Clone)]
pub struct ConceptSet {
    tokens: Vec<ModifierRow>,
    change: Change,
    strength: f64,
}

/// What the concepts add to the base model's keys and values.
#[derive(Clone)]
enum Change {
    /// One delta's, layer by layer; none for the base model.
    Delta(Vec<LayerChange>),
    /// Those of several deltas, each at its own words alone.
    AtOwnWords(Vec<OwnChange>),
    /// That of several deltas, from their packs.
    Merge(Arc<Merge>),
}

/// What a delta adds at its own words.
#[derive(Clone)]
struct OwnChange {
    words: OwnWords,
    layers: Vec<LayerChange>,
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
                for learned in &concept.delta.concepts {
                    set.tokens.extend(learned.modifier_row(&base.prompt_encoder, 1.0)?);
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
        for (learned, strength) in &merge.concepts {
            tokens.extend(learned.modifier_row(&base.prompt_encoder, *strength)?);
        }
        Ok(Self { tokens, change: Change::Merge(merge), strength: 1.0 })
    }

    /// The concepts of any number of deltas, each at its own words: everywhere else, keys and values are the base model's.
    pub fn at_own_words(base: &BaseModel, concepts: &[ConceptUse]) -> Result<Self> {
        let (mut tokens, mut changes) = (Vec::new(), Vec::new());
        for ConceptUse { delta, strength } in concepts {
            delta.check_base(base)?;
            let words = OwnWords::new(&base.prompt_encoder, &delta.concepts, tokens.len())?;
            for learned in &delta.concepts {
                tokens.extend(learned.modifier_row(&base.prompt_encoder, *strength)?);
            }
            let layers = layer_changes(base, delta)?;
            changes.push(OwnChange { words, layers, strength: *strength });
        }
        Ok(Self { tokens, change: Change::AtOwnWords(changes), strength: 1.0 })
    }

    /// The same concepts at `share` of their strength.
    pub fn scaled(&self, share: f64) -> Self {
        Self { strength: self.strength * share, ..self.clone() }
    }

    /// Encodes a prompt and projects it: K and V of one element.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a prompt that would be cut or names other concepts, and
    /// [`EngineError::WithoutEffect`] if the prompt's K and V are the base model's although a concept takes part: its
    /// image would silently be the base model's.
    pub fn condition(&self, base: &BaseModel, prompt: &str) -> Result<KeyValues> {
        let tokens = base.prompt_encoder.tokenize_whole(prompt, &self.added())?;
        // Without a modifier token the weights alone have to make the difference, but a merge leaves the empty prompt as
        // it is on purpose.
        let must_change = self.strength > 0.0
            && !self.is_base_model()
            && !prompt.trim().is_empty()
            && tokens.ids.iter().all(|&id| (id as usize) < base.prompt_encoder.vocab_size());
        let (key_values, changed) = self.project(base, tokens)?;
        match must_change && !changed {
            true => Err(EngineError::WithoutEffect { prompt: prompt.to_owned() }),
            false => Ok(key_values),
        }
    }

    fn is_base_model(&self) -> bool {
        match &self.change {
            // A delta of embedding rows alone leaves prompts without its modifier tokens to the base model.
            Change::Delta(changes) => {
                changes.iter().all(|layer| layer.key.is_none() && layer.value.is_none())
            }
            Change::Merge(merge) => merge.concepts.iter().all(|(_, strength)| *strength <= 0.0),
            // A prompt that names none of them is the base model's on purpose.
            Change::AtOwnWords(_) => true,
        }
    }

    /// Tokenizes a prompt with the concepts' modifier tokens in addition to the vocabulary.
    pub fn tokenize(&self, base: &BaseModel, prompt: &str) -> Result<TokenIds> {
        base.prompt_encoder.tokenize(prompt, &self.added())
    }

    /// K and V of a prompt as [`Self::tokenize`] gives it, cut if it was too long.
    pub fn condition_tokens(&self, base: &BaseModel, tokens: TokenIds) -> Result<KeyValues> {
        Ok(self.project(base, tokens)?.0)
    }

    /// K and V, and whether they are others than the base model's of the same features.
    fn project(&self, base: &BaseModel, tokens: TokenIds) -> Result<(KeyValues, bool)> {
        let rows = self.modifier_rows(base)?;
        let text = base.prompt_encoder.encode(std::slice::from_ref(&tokens.ids), rows.as_ref())?; // (1, tokens, dim)
        let mut key_values = base.unet.project(&text)?;
        // At 0 the base model's own products stay as they are, to the last bit.
        if self.strength <= 0.0 {
            return Ok((key_values, false));
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
                let layers = key_values.layers.iter_mut().zip(base.unet.cross_attention());
                for ((kv, layer), change) in layers.zip(changes) {
                    let (key, value) = ((&kv.key, &layer.to_k), (&kv.value, &layer.to_v));
                    let key = apply(key, change.key.as_ref(), &text, self.strength)?;
                    let value = apply(value, change.value.as_ref(), &text, self.strength)?;
                    replace(kv, key, value)?;
                }
            }
            Change::AtOwnWords(changes) => {
                let base_model = key_values.clone();
                for change in changes {
                    let Some(places) = change.words.places(&tokens) else { continue };
                    let places = Tensor::new(places.as_slice(), &base.device)?.unsqueeze(1)?; // (tokens, 1)
                    let strength = self.strength * change.strength;
                    let layers = base_model.layers.iter().zip(base.unet.cross_attention());
                    let layers = key_values.layers.iter_mut().zip(layers);
                    for ((kv, (own, layer)), change) in layers.zip(&change.layers) {
                        let (key, value) = ((&own.key, &layer.to_k), (&own.value, &layer.to_v));
                        let key = added_at(key, change.key.as_ref(), &text, strength, &places)?;
                        let value =
                            added_at(value, change.value.as_ref(), &text, strength, &places)?;
                        replace(kv, add(&kv.key, &key, 1.0)?, add(&kv.value, &value, 1.0)?)?;
                    }
                }
            }
            Change::Merge(merge) => {
                let added = merge.change(&text, base.unet.cross_attention())?;
                for (kv, added) in key_values.layers.iter_mut().zip(&added) {
                    let key = add(&kv.key, &added.key, self.strength)?;
                    let value = add(&kv.value, &added.value, self.strength)?;
                    replace(kv, key, value)?;
                }
            }
        }
        Ok((key_values, changed))
    }

    fn added(&self) -> Vec<&str> {
        self.tokens.iter().map(|row| row.token.as_str()).collect()
    }

    /// The modifier tokens' embedding rows at this strength, `(modifier tokens, text_dim)`.
    fn modifier_rows(&self, base: &BaseModel) -> Result<Option<Tensor>> {
        if self.tokens.is_empty() {
            return Ok(None);
        }
        let rows: Vec<f32> = self.tokens.iter().flat_map(|row| row.at(self.strength)).collect();
        let shape = (self.tokens.len(), base.prompt_encoder.hidden_size());
        Ok(Some(Tensor::from_vec(rows, shape, &base.device)?))
    }
}

/// K and V of one prompt with its concepts.
pub fn condition_prompt(
    base: &BaseModel,
    prompt: &str,
    concepts: &[ConceptUse],
) -> Result<KeyValues> {
    ConceptSet::new(base, concepts)?.condition(base, prompt)
}

fn layer_changes(base: &BaseModel, delta: &Delta) -> Result<Vec<LayerChange>> {
    let device = &base.device;
    let on_device =
        |tensor: &Tensor| -> Result<Tensor> { Ok(tensor.to_dtype(DType::F32)?.to_device(device)?) };
    let shared = match &delta.weights {
        DeltaWeights::LowRank { p, .. } => Some(on_device(p)?),
        DeltaWeights::Dense(_) | DeltaWeights::Factorized(_) => None,
    };
    let change = |name: String| -> Result<Option<WeightChange>> {
        Ok(match (&delta.weights, delta.weights.factors(&name)) {
            (DeltaWeights::Dense(weights), _) => {
                let learned = weights.get(&name).map(on_device).transpose()?;
                learned.map(WeightChange::Replaced)
            }
            (_, Some((e, own))) => {
                let p = shared.clone().map_or_else(|| on_device(own), Ok)?;
                Some(WeightChange::LowRank(on_device(e)?, p))
            }
            (_, None) => None,
        })
    };
    let layer = |kv: &CrossAttentionKv| -> Result<LayerChange> {
        Ok(LayerChange {
            key: change(format!("{}.to_k.weight", kv.name))?,
            value: change(format!("{}.to_v.weight", kv.name))?,
        })
    };
    base.unet.cross_attention().iter().map(layer).collect()
}

/// `W₀ c + strength · ΔW c`.
///
/// - `projected`: `W₀ c` of the base model, `(1, tokens, inner)`
/// - `weight`: `W₀`, `(inner, text_dim)`
/// - `text`: `c`, `(tokens, text_dim)` in f32
fn apply(
    (projected, weight): (&Tensor, &Tensor),
    change: Option<&WeightChange>,
    text: &Tensor,
    strength: f64,
) -> Result<Tensor> {
    let changed = match change {
        None => return Ok(projected.clone()),
        Some(WeightChange::Replaced(replacement)) => {
            let whole = ops::matmul(text, &replacement.t()?)?; // (tokens, inner)
            // A product in half precision rounds differently, so that a matrix equal to the base model's would seem to
            // change something. Both products are therefore computed in f32.
            let base = match projected.dtype() {
                DType::F32 => projected.squeeze(0)?,
                _ => ops::matmul(text, &weight.to_dtype(DType::F32)?.t()?)?,
            };
            if !differ(&whole, &base)? {
                return Ok(projected.clone());
            }
            if is_full_strength(strength) {
                whole
            } else {
                (&base + ((whole - &base)? * strength)?)?
            }
        }
        Some(WeightChange::LowRank(e, p)) => {
            let shared = ops::matmul(text, &p.t()?)?; // (tokens, s)
            let added = ops::matmul(&shared, &e.t()?)?; // (tokens, inner)
            return add(projected, &added, strength);
        }
    };
    Ok(changed.unsqueeze(0)?.to_dtype(projected.dtype())?)
}

/// `strength · ΔW c` at some tokens, 0 at the others: `(tokens, inner)` in f32.
///
/// - `places`: `(tokens, 1)`: 1 at the tokens that change, 0 at the others
fn added_at(
    projected: (&Tensor, &Tensor),
    change: Option<&WeightChange>,
    text: &Tensor,
    strength: f64,
    places: &Tensor,
) -> Result<Tensor> {
    let changed = apply(projected, change, text, strength)?; // (1, tokens, inner)
    let added = (changed.to_dtype(DType::F32)? - projected.0.to_dtype(DType::F32)?)?;
    Ok(added.squeeze(0)?.broadcast_mul(places)?)
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
