//! A concept as a delta holds it.

use crate::domain::concept::ConceptWords;
use crate::engine::error::Result;
use crate::engine::prompt::{PromptEncoder, modifier_row::ModifierRow};

/// One concept of a delta: its words, and what was learned for its modifier token.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaConcept {
    pub words: ConceptWords,
    /// The modifier token's embedding, `(text_dim,)`; `None` without a modifier token.
    pub embedding_row: Option<Vec<f32>>,
    /// The token that the embedding row started from; `None` if a file does not say.
    pub initializer_token: Option<String>,
}

impl DeltaConcept {
    /// The embedding row of its modifier token at a strength; `None` for a concept without a token.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`](crate::engine::EngineError::InvalidInput) if the initializer token is not an entry of
    /// the vocabulary.
    pub(crate) fn embedding_row_at(
        &self,
        prompt_encoder: &PromptEncoder,
        strength: f64,
    ) -> Result<Option<Vec<f32>>> {
        Ok(self.modifier_row(prompt_encoder, strength)?.map(|row| row.at(1.0)))
    }

    /// The same as a row that can be taken at any share of that strength.
    pub(crate) fn modifier_row(
        &self,
        prompt_encoder: &PromptEncoder,
        strength: f64,
    ) -> Result<Option<ModifierRow>> {
        let (Some(token), Some(learned)) = (&self.words.modifier_token, &self.embedding_row) else {
            return Ok(None);
        };
        let start = match &self.initializer_token {
            Some(name) => Some(prompt_encoder.initializer_row(name)?),
            None => None,
        };
        let (token, learned) = (token.as_str().to_owned(), learned.clone());
        Ok(Some(ModifierRow { token, start, learned, strength }))
    }
}
