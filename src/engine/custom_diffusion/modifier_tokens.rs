//! The embedding rows that a training's modifier tokens start from.

use candle_core::Tensor;

use super::concept::DeltaConcept;
use super::delta::Delta;
use crate::domain::concept::ModifierToken;
use crate::domain::training::TrainingRecipe;
use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};
use crate::engine::training::TrainingInput;

/// What a modifier token's embedding row starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenStart {
    /// An entry of the vocabulary.
    Entry(String),
    /// The row that an earlier delta has learned for the same token.
    Learned {
        row: Vec<f32>,
        /// What that row started from, if the delta says so.
        initializer_token: Option<String>,
    },
}

impl TokenStart {
    /// The row itself.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if the entry is not one of the model's vocabulary.
    pub fn row(&self, base: &BaseModel) -> Result<Vec<f32>> {
        match self {
            Self::Entry(name) => base.prompt_encoder.initializer_row(name),
            Self::Learned { row, .. } => Ok(row.clone()),
        }
    }

    /// The entry that it is, or that the learned row started from.
    pub fn initializer_token(&self) -> Option<&str> {
        match self {
            Self::Entry(name) => Some(name),
            Self::Learned { initializer_token, .. } => initializer_token.as_deref(),
        }
    }
}

/// The rows of modifier tokens that start so, `(tokens, text_dim)`; `None` without modifier tokens.
///
/// # Errors
/// [`EngineError::InvalidInput`] if an initializer is not an entry of the model's vocabulary.
pub(super) fn initial_rows(base: &BaseModel, starts: &[TokenStart]) -> Result<Option<Tensor>> {
    let tokens = starts.len();
    if tokens == 0 {
        return Ok(None);
    }
    let mut rows = Vec::new();
    for start in starts {
        rows.extend(start.row(base)?);
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

/// For each modifier token of a training what an earlier delta has learned for it, if anything.
pub(super) fn learned_starts(
    input: &TrainingInput,
    start_from: Option<&Delta>,
) -> Vec<Option<TokenStart>> {
    let tokens = input.concepts.iter().filter_map(|one| one.words.modifier_token.as_ref());
    let of_token = |token: &ModifierToken| {
        let mut known = start_from?.concepts.iter();
        let known: &DeltaConcept =
            known.find(|known| known.words.modifier_token.as_ref() == Some(token))?;
        let initializer_token = known.initializer_token.clone();
        Some(TokenStart::Learned { row: known.embedding_row.clone()?, initializer_token })
    };
    tokens.map(of_token).collect()
}
