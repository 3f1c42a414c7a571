//! The embedding rows that a training's modifier tokens start from.

use candle_core::Tensor;

use crate::domain::training::TrainingRecipe;
use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};

/// The rows of modifier tokens that start from these vocabulary entries, `(tokens, text_dim)`; `None` without modifier
/// tokens.
///
/// # Errors
/// [`EngineError::InvalidInput`] if an initializer is not an entry of the model's vocabulary.
pub(super) fn initial_rows(base: &BaseModel, initializers: &[String]) -> Result<Option<Tensor>> {
    let tokens = initializers.len();
    if tokens == 0 {
        return Ok(None);
    }
    let mut rows = Vec::new();
    for name in initializers {
        rows.extend(base.prompt_encoder.initializer_row(name)?);
    }
    let width = rows.len() / tokens;
    Ok(Some(Tensor::from_vec(rows, (tokens, width), &base.device)?))
}

/// The vocabulary entries that `tokens` modifier tokens start from without candidates: the recipe's list in turn.
///
/// # Errors
/// [`EngineError::InvalidInput`] if the list is empty.
pub(super) fn initializers(recipe: &TrainingRecipe, tokens: usize) -> Result<Vec<String>> {
    let names = &recipe.initializer_tokens;
    if names.is_empty() && tokens > 0 {
        return Err(EngineError::InvalidInput(
            "initializer_tokens is empty: name at least one vocabulary entry".into(),
        ));
    }
    Ok(names.iter().cycle().take(tokens).cloned().collect())
}
