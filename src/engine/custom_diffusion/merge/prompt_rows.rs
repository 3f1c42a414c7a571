//! Features of the prompts that a pack's constraints come from.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};

use super::place::Place;
use crate::engine::base_model::BaseModel;
use crate::engine::clip::TokenIds;
use crate::engine::custom_diffusion::delta::Delta;
use crate::engine::error::Result;

/// Rows closer than this in every component are one constraint.
const SAME_ROW: f32 = 1e-5;

/// Features of chosen positions of prompts.
pub(super) struct PromptRows<'a> {
    base: &'a BaseModel,
    tokens: Vec<&'a str>,
    modifier_rows: Option<Tensor>,
    prompts: Vec<Prompt>,
}

/// A prompt with the positions whose features are taken.
struct Prompt {
    ids: Vec<u32>,
    positions: Range<usize>,
    /// Of each position.
    places: Vec<Place>,
}

impl<'a> PromptRows<'a> {
    pub(super) fn new(base: &'a BaseModel, delta: &'a Delta, strength: f64) -> Result<Self> {
        let mut tokens = Vec::new();
        let mut rows = Vec::new();
        for learned in &delta.concepts {
            if let (Some(token), Some(row)) = (
                &learned.words.modifier_token,
                learned.embedding_row_at(&base.prompt_encoder, strength)?,
            ) {
                tokens.push(token.as_str());
                rows.push(Tensor::new(row, &base.device)?);
            }
        }
        let modifier_rows = if rows.is_empty() { None } else { Some(Tensor::stack(&rows, 0)?) };
        Ok(Self { base, tokens, modifier_rows, prompts: Vec::new() })
    }

    /// Prompts so far.
    pub(super) fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Takes the positions of a name that follows `before`, and one more for each of `after`, unless the prompt would be
    /// cut.
    pub(super) fn add(
        &mut self,
        before: &str,
        name: &str,
        place: Place,
        after: &[Place],
    ) -> Result<()> {
        let TokenIds { ids, length, .. } = self.encode(&format!("{before}{name}"))?;
        if length > ids.len() {
            return Ok(()); // cut, and the name is at its end
        }
        // A part's tokens do not depend on its neighbours: words are tokenized one by one.
        let start = 1 + self.inner(before)?.len();
        let part = self.inner(name)?;
        let end = start + part.len();
        if !part.is_empty() && ids.get(start..end) == Some(part.as_slice()) {
            let positions = start..(end + after.len()).min(ids.len());
            let mut places = vec![place; part.len()];
            places.extend(after);
            self.prompts.push(Prompt { ids, positions, places });
        }
        Ok(())
    }

    fn encode(&self, prompt: &str) -> Result<TokenIds> {
        self.base.prompt_encoder.tokenize(prompt, &self.tokens)
    }

    /// The ids of a text without the marks around it.
    fn inner(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = self.encode(text)?;
        let end = encoded.length.min(encoded.ids.len()).saturating_sub(1);
        Ok(encoded.ids[1..end.max(1)].to_vec())
    }

    /// `(rows, text_dim)`, f32 on the CPU, each row once, and where each stands.
    pub(super) fn into_features(self) -> Result<(Tensor, Vec<Place>)> {
        let width = self.base.prompt_encoder.hidden_size();
        if self.prompts.is_empty() {
            return Ok((Tensor::zeros((0, width), DType::F32, &Device::Cpu)?, Vec::new()));
        }
        let ids: Vec<Vec<u32>> = self.prompts.iter().map(|prompt| prompt.ids.clone()).collect();
        let features = self.base.prompt_encoder.encode(&ids, self.modifier_rows.as_ref())?;
        let features: Vec<Vec<Vec<f32>>> =
            features.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec3()?;
        let mut kept: Vec<Vec<f32>> = Vec::new();
        let mut places = Vec::new();
        for (features, prompt) in features.iter().zip(&self.prompts) {
            for (row, place) in features[prompt.positions.clone()].iter().zip(&prompt.places) {
                let same =
                    |known: &Vec<f32>| known.iter().zip(row).all(|(a, b)| (a - b).abs() < SAME_ROW);
                if !kept.iter().any(same) {
                    kept.push(row.clone());
                    places.push(*place);
                }
            }
        }
        Ok((Tensor::from_vec(kept.concat(), (kept.len(), width), &Device::Cpu)?, places))
    }
}
