//! What an image attends to.

use super::request::SampleRequest;
use crate::engine::base_model::BaseModel;
use crate::engine::conditioning::ConceptSet;
use crate::engine::error::Result;
use crate::engine::key_values::KeyValues;

/// K and V of the prompts of one image.
#[derive(Clone, Debug)]
pub struct PromptKeyValues {
    pub prompt: KeyValues,
    /// Of the negative prompt; `None` without guidance.
    pub negative: Option<KeyValues>,
}

impl PromptKeyValues {
    /// Encodes and projects the request's prompts.
    pub fn new(base: &BaseModel, request: &SampleRequest) -> Result<Self> {
        let concepts = ConceptSet::new(base, &request.concepts)?;
        Self::from_fn(request, &mut |prompt, share| concepts.scaled(share).condition(base, prompt))
    }

    /// The same with K and V that the caller provides, for instance from a cache: `condition` returns those of a prompt
    /// with the request's concepts at a share of their strength.
    pub fn from_fn(
        request: &SampleRequest,
        condition: &mut dyn FnMut(&str, f64) -> Result<KeyValues>,
    ) -> Result<Self> {
        let negative = match request.is_guided() {
            true => Some(condition(&request.negative_prompt, request.unconditional_strength)?),
            false => None,
        };
        Ok(Self { prompt: condition(&request.prompt, 1.0)?, negative })
    }
}
