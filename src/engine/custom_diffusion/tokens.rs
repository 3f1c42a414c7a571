//! Modifier tokens of a training: their ids, their captions and the rows they start from.

use candle_core::Tensor;

use crate::domain::training::TrainingRecipe;
use crate::engine::base_model::BaseModel;
use crate::engine::custom_diffusion::train::TrainingConcept;
use crate::engine::{EngineError, Result};

/// The modifier tokens of the concepts that have one, in order: token `i` has the id `vocab_size + i`.
pub fn modifier_tokens(concepts: &[TrainingConcept]) -> Vec<&str> {
    concepts
        .iter()
        .filter_map(|concept| concept.modifier_token.as_ref().map(|token| token.as_str()))
        .collect()
}

/// How a caption names the concept: `<modifier> noun`, or the noun alone.
pub fn concept_name(concept: &TrainingConcept) -> String {
    match &concept.modifier_token {
        Some(token) => format!("{token} {}", concept.class_noun),
        None => concept.class_noun.clone(),
    }
}

/// The embedding rows that modifier tokens start from, `(modifier tokens, text_dim)`; `None` without modifier tokens.
///
/// # Errors
/// [`EngineError::InvalidInput`] if an initializer is not an entry of the model's vocabulary.
pub fn initial_rows(
    base: &BaseModel,
    recipe: &TrainingRecipe,
    tokens: usize,
) -> Result<Option<Tensor>> {
    if tokens == 0 {
        return Ok(None);
    }
    let mut rows = Vec::new();
    for token in 0..tokens {
        rows.extend(
            base.text_encoder.token_row(initializer_id(base, initializer(recipe, token)?)?)?,
        );
    }
    let width = rows.len() / tokens;
    Ok(Some(Tensor::from_vec(rows, (tokens, width), &base.device)?))
}

/// The vocabulary entry that modifier token number `token` starts from; the recipe's list is used in turn.
pub fn initializer(recipe: &TrainingRecipe, token: usize) -> Result<&str> {
    let names = &recipe.initializer_tokens;
    match names.len() {
        0 => Err(EngineError::InvalidInput(
            "initializer_tokens is empty: name at least one vocabulary entry".into(),
        )),
        count => Ok(&names[token % count]),
    }
}

/// The entry of this name, or else the whole word: `ktn` is a piece within words in one vocabulary, a word in another.
pub(crate) fn initializer_id(base: &BaseModel, name: &str) -> Result<u32> {
    let entry =
        base.tokenizer.token_id(name).or_else(|| base.tokenizer.token_id(&format!("{name}</w>")));
    entry.ok_or_else(|| {
        EngineError::InvalidInput(format!(
            "initializer_tokens: `{name}` is not an entry of the model's vocabulary"
        ))
    })
}
