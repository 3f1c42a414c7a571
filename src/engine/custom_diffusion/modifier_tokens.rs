//! The embedding rows that a training's modifier tokens start from.

use candle_core::Tensor;

use crate::domain::training::TrainingRecipe;
use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};

/// The initial rows of `tokens` modifier tokens, `(tokens, text_dim)`; `None` without modifier tokens.
///
/// # Errors
/// [`EngineError::InvalidInput`] if an initializer is not an entry of the model's vocabulary.
pub(super) fn initial_rows(
    base: &BaseModel,
    recipe: &TrainingRecipe,
    tokens: usize,
) -> Result<Option<Tensor>> {
    if tokens == 0 {
        return Ok(None);
    }
    let mut rows = Vec::new();
    for token in 0..tokens {
        rows.extend(base.prompt_encoder.initializer_row(initializer(recipe, token)?)?);
    }
    let width = rows.len() / tokens;
    Ok(Some(Tensor::from_vec(rows, (tokens, width), &base.device)?))
}

/// The vocabulary entry that modifier token number `token` starts from; the recipe's list is used in turn.
pub(super) fn initializer(recipe: &TrainingRecipe, token: usize) -> Result<&str> {
    let names = &recipe.initializer_tokens;
    match names.len() {
        0 => Err(EngineError::InvalidInput(
            "initializer_tokens is empty: name at least one vocabulary entry".into(),
        )),
        count => Ok(&names[token % count]),
    }
}
