//! Merge packs: what a merge needs of a delta, computed once and a few megabytes small.
//!
//! The constraints of a merge come from prompts. Every concept's name in several templates must get the keys and
//! values that its own delta gives it, there up to the end token and at some of the padding, which the UNet attends to
//! as well; beside another concept, the name in prompts that hold both, since a name's features depend on the words
//! around it. What must stay as the base model has it is protected: the start token, the empty prompt of guidance, and
//! the class nouns on their own.
//!
//! None of this depends on which further concepts a request names, so a merge only gathers packs.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use crate::engine::base_model::BaseModel;
use crate::engine::clip::TokenIds;
use crate::engine::custom_diffusion::closed_form::Regularization;
use crate::engine::custom_diffusion::delta::{Delta, DeltaConcept};
use crate::engine::{EngineError, Result};

/// Prompts in which a concept alone keeps its own keys and values: what stands before its name.
const BEFORE: [&str; 3] = ["", "a ", "photo of a "];
/// Prompts in which it does beside another concept: what stands before the other's name and between the two.
const BEFORE_AND_BETWEEN: [(&str, &str); 3] =
    [("a ", " and a "), ("photo of a ", " next to a "), ("a ", " in front of a ")];
/// Padding positions after the end token that are constrained as well.
const PADDING_ROWS: usize = 2;
/// Of so many captions one is kept aside to measure drift on.
const HELD_OUT: usize = 10;
/// Rows closer than this in every component are one constraint.
const SAME_ROW: f64 = 1e-5;

/// What merges over one base model have in common, computed once.
pub struct MergeBase {
    pub(super) regularization: Regularization,
    /// Features of captions that the regularization has not seen, `(rows, text_dim)`, f32.
    pub(super) held_out: Tensor,
    /// `‖W₀ cᵀ‖²` of them, over all matrices.
    pub(super) held_out_scale: f64,
}

/// Some of a merge's constraints: rows of text features and how a delta changes their keys and values.
pub struct MergePack {
    /// `C`, `(rows, text_dim)`, f64.
    pub(super) features: Tensor,
    /// `D = C G⁻¹`, likewise.
    pub(super) d: Tensor,
    /// `Eᵀ = C ΔWᵀ`, `(rows, Σ 2·inner)`, f32, keys before values in the order of the cross-attention layers; `None` if
    /// the rows are protected.
    pub(super) changes: Option<Tensor>,
}

/// Names one of a merge's packs; numbers are those of its deltas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PackKey {
    /// A delta's own concepts, alone in their prompts.
    Alone(usize),
    /// The first's concepts in prompts that name the second's before.
    Beside(usize, usize),
    /// The delta's class nouns without their modifier tokens.
    ClassNouns(usize),
    /// The prompt of unconditional guidance, and with it the start token.
    Empty,
}

impl PackKey {
    /// The packs of a merge of so many deltas; what concepts ask for comes before what is protected.
    pub fn of_merge(deltas: usize) -> Vec<Self> {
        let mut keys: Vec<Self> = (0..deltas).map(Self::Alone).collect();
        for first in 0..deltas {
            keys.extend(
                (0..deltas)
                    .filter(|&second| second != first)
                    .map(|second| Self::Beside(first, second)),
            );
        }
        keys.push(Self::Empty);
        keys.extend((0..deltas).map(Self::ClassNouns));
        keys
    }

    /// Whose changes the pack has.
    pub(super) fn owner(self) -> Option<usize> {
        match self {
            Self::Alone(delta) | Self::Beside(delta, _) => Some(delta),
            Self::ClassNouns(_) | Self::Empty => None,
        }
    }
}

impl MergeBase {
    /// Encodes `captions`, ordinary prompts of the base model's world; some are kept aside.
    pub fn new(base: &BaseModel, captions: &[String]) -> Result<Self> {
        let (mut seen, mut held_out) = (Vec::new(), Vec::new());
        for (index, caption) in captions.iter().enumerate() {
            let ids = base.tokenizer.encode(caption, &[])?.ids;
            if index % HELD_OUT == HELD_OUT - 1 { held_out.push(ids) } else { seen.push(ids) }
        }
        if held_out.is_empty() {
            let text = format!(
                "a merge needs at least {HELD_OUT} regularization captions, got {}",
                captions.len()
            );
            return Err(EngineError::InvalidInput(text));
        }
        let held_out = caption_rows(base, &held_out)?;
        let mut held_out_scale = 0.0;
        for layer in base.unet.cross_attention() {
            for weight in [&layer.to_k, &layer.to_v] {
                let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                held_out_scale += square_sum(&held_out.matmul(&weight.t()?)?)?;
            }
        }
        let regularization = Regularization::new(&caption_rows(base, &seen)?)?;
        Ok(Self { regularization, held_out, held_out_scale })
    }
}

impl MergePack {
    /// - `features`: `(rows, text_dim)`
    /// - `changes`: `(rows, Σ 2·inner)` in f32; `None` protects the rows
    pub fn new(
        regularization: &Regularization,
        features: &Tensor,
        changes: Option<Tensor>,
    ) -> Result<Self> {
        let features = features.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let d = regularization.solve(&features)?;
        Ok(Self { features, d, changes })
    }

    /// Encodes the prompts of one pack, and what the delta makes of them.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if a concept's name is longer than the model's prompts.
    pub fn build(
        base: &BaseModel,
        merge_base: &MergeBase,
        deltas: &[&Delta],
        key: PackKey,
    ) -> Result<Self> {
        let mut rows = Rows::new(base, key, deltas)?;
        match key {
            PackKey::Alone(delta) => {
                for learnt in &deltas[delta].concepts {
                    for before in BEFORE {
                        rows.add(&[before, &name(learnt)], 1, 1 + PADDING_ROWS)?;
                    }
                }
            }
            PackKey::Beside(delta, other) => {
                for learnt in &deltas[delta].concepts {
                    for beside in &deltas[other].concepts {
                        // Features depend on what stands before them: the first of two names has those of a name alone.
                        for (before, between) in BEFORE_AND_BETWEEN {
                            rows.add(&[before, &name(beside), between, &name(learnt)], 3, 0)?;
                        }
                    }
                }
            }
            PackKey::ClassNouns(delta) => {
                let with_modifier =
                    deltas[delta].concepts.iter().filter(|learnt| learnt.modifier_token.is_some());
                for learnt in with_modifier {
                    for before in BEFORE {
                        rows.add(&[before, &learnt.class_noun], 1, 1)?;
                    }
                }
            }
            // The start token is the first row of every prompt: the empty one brings it along.
            PackKey::Empty => rows.add_all("")?,
        }
        let features = rows.into_features()?;
        if let (PackKey::Alone(delta), 0) = (key, features.dim(0)?) {
            let text = format!(
                "the name `{}` is longer than the model's prompts of {} tokens",
                deltas[delta].concepts.first().map(name).unwrap_or_default(),
                base.tokenizer.max_length()
            );
            return Err(EngineError::InvalidInput(text));
        }
        let changes = match key.owner() {
            Some(delta) => Some(deltas[delta].change(base, &features)?),
            None => None,
        };
        Self::new(&merge_base.regularization, &features, changes)
    }

    /// Memory that the pack takes.
    pub fn size_bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        bytes(&self.features) + bytes(&self.d) + self.changes.as_ref().map_or(0, bytes)
    }

    pub(super) fn len(&self) -> Result<usize> {
        Ok(self.features.dim(0)?)
    }

    /// The pack without the rows that `taken` has already, and adds its own to `taken`; `None` if all are kept.
    pub(super) fn without_repeated(&self, taken: &mut Vec<Vec<f64>>) -> Result<Option<Self>> {
        let mut kept = Vec::new();
        let rows: Vec<Vec<f64>> = self.features.to_vec2()?;
        let all = rows.len();
        for (index, row) in rows.into_iter().enumerate() {
            let same =
                |known: &Vec<f64>| known.iter().zip(&row).all(|(a, b)| (a - b).abs() < SAME_ROW);
            if !taken.iter().any(same) {
                taken.push(row);
                kept.push(index as u32);
            }
        }
        if kept.len() == all {
            return Ok(None);
        }
        let kept = Tensor::new(kept, &Device::Cpu)?;
        let select = |tensor: &Tensor| tensor.index_select(&kept, 0);
        Ok(Some(Self {
            features: select(&self.features)?,
            d: select(&self.d)?,
            changes: self.changes.as_ref().map(select).transpose()?,
        }))
    }
}

/// Features of chosen positions of prompts.
struct Rows<'a> {
    base: &'a BaseModel,
    tokens: Vec<&'a str>,
    modifier_rows: Option<Tensor>,
    prompts: Vec<(Vec<u32>, Range<usize>)>,
}

impl<'a> Rows<'a> {
    /// Encodes with the modifier tokens of all deltas that the pack names: features do not depend on who asks.
    fn new(base: &'a BaseModel, key: PackKey, deltas: &[&'a Delta]) -> Result<Self> {
        let named = match key {
            PackKey::Alone(delta) => vec![delta],
            PackKey::Beside(delta, other) => vec![delta, other],
            PackKey::ClassNouns(_) | PackKey::Empty => Vec::new(),
        };
        let mut tokens = Vec::new();
        let mut rows = Vec::new();
        for learnt in named.iter().flat_map(|&delta| &deltas[delta].concepts) {
            if let (Some(token), Some(row)) = (&learnt.modifier_token, &learnt.token_row) {
                tokens.push(token.as_str());
                rows.push(Tensor::new(row.as_slice(), &base.device)?);
            }
        }
        let modifier_rows = if rows.is_empty() { None } else { Some(Tensor::stack(&rows, 0)?) };
        Ok(Self { base, tokens, modifier_rows, prompts: Vec::new() })
    }

    /// Takes the positions of part `chosen` of a prompt and `after` more, unless the prompt is cut before them.
    fn add(&mut self, parts: &[&str], chosen: usize, after: usize) -> Result<()> {
        let ids = self.encode(&parts.concat())?.ids;
        // A part's tokens do not depend on its neighbours: words are taken apart one by one.
        let start = 1 + self.inner(&parts[..chosen].concat())?.len();
        let part = self.inner(parts[chosen])?;
        let end = start + part.len();
        if !part.is_empty() && ids.get(start..end) == Some(part.as_slice()) {
            let range = start..(end + after).min(ids.len());
            self.prompts.push((ids, range));
        }
        Ok(())
    }

    /// Takes all positions of a prompt.
    fn add_all(&mut self, prompt: &str) -> Result<()> {
        let ids = self.encode(prompt)?.ids;
        let range = 0..ids.len();
        self.prompts.push((ids, range));
        Ok(())
    }

    fn encode(&self, prompt: &str) -> Result<TokenIds> {
        self.base.tokenizer.encode(prompt, &self.tokens)
    }

    /// The ids of a text without the marks around it.
    fn inner(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = self.encode(text)?;
        let end = encoded.length.min(encoded.ids.len()).saturating_sub(1);
        Ok(encoded.ids[1..end.max(1)].to_vec())
    }

    /// `(rows, text_dim)`, f32 on the CPU, each row once.
    fn into_features(self) -> Result<Tensor> {
        let width = self.base.text_encoder.hidden_size();
        if self.prompts.is_empty() {
            return Ok(Tensor::zeros((0, width), DType::F32, &Device::Cpu)?);
        }
        let (ids, ranges): (Vec<_>, Vec<_>) = self.prompts.into_iter().unzip();
        let features = self.base.text_encoder.forward(&ids, self.modifier_rows.as_ref())?;
        let features: Vec<Vec<Vec<f32>>> =
            features.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec3()?;
        let mut kept: Vec<Vec<f32>> = Vec::new();
        for (prompt, range) in features.iter().zip(ranges) {
            for row in &prompt[range] {
                let same = |known: &Vec<f32>| {
                    known.iter().zip(row).all(|(a, b)| f64::from((a - b).abs()) < SAME_ROW)
                };
                if !kept.iter().any(same) {
                    kept.push(row.clone());
                }
            }
        }
        Ok(Tensor::from_vec(kept.concat(), (kept.len(), width), &Device::Cpu)?)
    }
}

/// How prompts name the concept.
fn name(learnt: &DeltaConcept) -> String {
    match &learnt.modifier_token {
        Some(token) => format!("{token} {}", learnt.class_noun),
        None => learnt.class_noun.clone(),
    }
}

/// The features of captions at all positions but the start token's, `(rows, text_dim)`, f32 on the CPU.
fn caption_rows(base: &BaseModel, captions: &[Vec<u32>]) -> Result<Tensor> {
    let mut rows = Vec::new();
    for chunk in captions.chunks(32) {
        let features = base
            .text_encoder
            .forward(chunk, None)?
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?;
        let (_, tokens, _) = features.dims3()?;
        rows.push(features.narrow(1, 1, tokens - 1)?.contiguous()?.flatten(0, 1)?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}

pub(super) fn square_sum(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?)
}
