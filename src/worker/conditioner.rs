//! K and V of prompts, cached on the device.

use super::concepts::{ConceptsKey, SampleConcepts};
use super::engine::Engine;
use super::progress::Progress;
use crate::byte_cache::ByteCache;
use crate::counters::KEY_VALUES;
use crate::engine::Result;
use crate::engine::{ConceptSet, DenoisingState, KeyValues, PromptKeyValues, SampleRequest};

/// Prepares images for the batch, from cached K and V where there are some.
///
/// They depend on the concepts and the prompt's token ids, and on the engine's dtype, of which there is one per thread.
/// Nothing else of a concept is ever on the device.
pub(crate) struct Conditioner {
    kept: ByteCache<(ConceptsKey, Vec<u32>), KeyValues>,
    /// K and V of the empty prompt with the base model, which any request may need. They are never evicted.
    unconditional: Option<(Vec<u32>, KeyValues)>,
}

impl Conditioner {
    pub(crate) fn new(budget_bytes: usize) -> Self {
        Self { kept: ByteCache::new(budget_bytes, &KEY_VALUES), unconditional: None }
    }

    /// An image at its first step.
    pub(crate) fn start(
        &mut self,
        engine: &Engine,
        progress: &Progress,
        concepts: &SampleConcepts,
        request: &SampleRequest,
    ) -> Result<DenoisingState> {
        let added = concepts.modifier_tokens();
        let mut resolved: Option<ConceptSet> = None;
        let prompts = PromptKeyValues::from_fn(request, &mut |prompt, share| {
            let base = &engine.base;
            let tokens = base.prompt_encoder.tokenize_whole(prompt, &added)?;
            let named =
                tokens.ids.iter().any(|&id| id as usize >= base.prompt_encoder.vocab_size());
            // Without strength and without a modifier token, K and V are the base model's, whatever the concepts.
            let base_alone = concepts.is_base_model() || (share == 0.0 && !named);
            let key = match base_alone {
                true => ConceptsKey::default(),
                false => concepts.key(share),
            };
            if let Some(known) = self.known(&key, &tokens.ids) {
                return Ok(known);
            }
            let resolved = match &mut resolved {
                Some(resolved) => resolved,
                none => none.insert(concepts.resolve(engine, progress)?),
            };
            let made = resolved.scaled(share).condition(base, prompt)?;
            self.keep(key, tokens.ids, prompt, &made);
            Ok(made)
        })?;
        DenoisingState::with_key_values(&engine.base, request, prompts)
    }

    fn known(&self, key: &ConceptsKey, tokens: &[u32]) -> Option<KeyValues> {
        match &self.unconditional {
            Some((empty, known)) if key.is_base_model() && empty == tokens => Some(known.clone()),
            Some(_) | None => self.kept.get(&(key.clone(), tokens.to_vec())),
        }
    }

    fn keep(&mut self, key: ConceptsKey, tokens: Vec<u32>, prompt: &str, made: &KeyValues) {
        if key.is_base_model() && prompt.is_empty() {
            self.unconditional = Some((tokens, made.clone()));
        } else {
            self.kept.put((key, tokens), made.clone(), made.size_bytes());
        }
    }
}
