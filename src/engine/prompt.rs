//! Prompts to text features, with modifier tokens in addition to the vocabulary.
//!
//! The one place that knows which tokenizers and text encoders a base model has: a model with a second text encoder gets
//! it here, and its features are joined here.

pub(crate) mod modifier_row;

use std::{ops::Range, path::Path};

use candle_core::Tensor;

use super::{
    clip::{ClipTextEncoder, ClipTokenizer, TokenIds},
    error::{EngineError, Result},
    weights::WeightFiles,
};
use crate::domain::concept::{InvalidModifierToken, modifier_tokens_in};

/// Turns prompts into token ids, and token ids into the features that cross-attention reads.
///
/// Modifier tokens are not part of the vocabulary. A caller names those of its request (`added`), and brings one embedding
/// row for each: token `i` of `added` has the id `vocab_size + i` and row `i` of `modifier_rows`. `vocab_size` is the number
/// of rows of the embedding table, of which a vocabulary may leave some unused.
pub struct PromptEncoder {
    tokenizer: ClipTokenizer,
    text_encoder: ClipTextEncoder,
}

impl PromptEncoder {
    /// Loads `tokenizer/` and `text_encoder/` of a model folder.
    ///
    /// - `files`: the weights of `text_encoder/`
    ///
    /// # Errors
    /// [`EngineError::ModelFile`], [`EngineError::WeightMissing`] and [`EngineError::WeightShape`].
    pub(crate) fn load(dir: &Path, files: &WeightFiles) -> Result<Self> {
        let text_encoder = ClipTextEncoder::load(&dir.join("text_encoder"), files)?;
        let tokenizer = ClipTokenizer::load(&dir.join("tokenizer"))?;
        Ok(Self { tokenizer: tokenizer.with_table(text_encoder.vocab_size()), text_encoder })
    }

    /// Token ids of a prompt, padded to [`Self::max_length`] and cut there.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a text that cannot be tokenized.
    pub fn tokenize(&self, prompt: &str, added: &[&str]) -> Result<TokenIds> {
        self.tokenizer.encode(prompt, added)
    }

    /// [`Self::tokenize`] for a prompt that must be taken as a whole.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a prompt that would be cut, and for modifier tokens that are not among `added`:
    /// they would fall apart into ordinary tokens.
    pub fn tokenize_whole(&self, prompt: &str, added: &[&str]) -> Result<TokenIds> {
        let unknown = |token: &str| {
            EngineError::InvalidInput(format!(
                "prompt `{prompt}` names {token}, which no concept of this request has"
            ))
        };
        // The tokenizer takes added tokens in upper and lower case.
        let mut text = prompt.to_ascii_lowercase();
        let named = loop {
            match modifier_tokens_in(&text) {
                Ok(named) => break named,
                Err(InvalidModifierToken(word)) if is_like_a_token(&word) => {
                    return Err(unknown(&word));
                }
                // Other signs in brackets, such as `<!>`, are ordinary text.
                Err(InvalidModifierToken(signs)) => text = text.replace(&signs, " "),
            }
        };
        for token in named {
            let is_known = added.iter().any(|known| known.eq_ignore_ascii_case(token.as_str()));
            if !is_known && !self.tokenizer.has_token(token.as_str()) {
                return Err(unknown(token.as_str()));
            }
        }
        let tokens = self.tokenize(prompt, added)?;
        let limit = self.max_length();
        if tokens.length > limit {
            return Err(EngineError::InvalidInput(format!(
                "prompt `{prompt}` is {} tokens long with its begin and end marks, the limit is {limit}",
                tokens.length
            )));
        }
        Ok(tokens)
    }

    /// The positions of some words of a prompt among its tokens.
    ///
    /// - `bytes`: of the prompt, at whole words
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a text that cannot be tokenized.
    pub fn positions(&self, prompt: &str, bytes: Range<usize>) -> Result<Vec<usize>> {
        // The begin mark is counted, the end mark is not.
        let count = |text: &str| -> Result<usize> {
            Ok(self.tokenize(text, &[])?.length.min(self.max_length()) - 1)
        };
        Ok((count(&prompt[..bytes.start])?..count(&prompt[..bytes.end])?).collect())
    }

    /// Encodes token ids of one length.
    ///
    /// - `modifier_rows`: `(modifier tokens, hidden_size)`
    /// - returns `(batch, tokens, hidden_size)`
    pub fn encode(&self, ids: &[Vec<u32>], modifier_rows: Option<&Tensor>) -> Result<Tensor> {
        self.text_encoder.forward(ids, modifier_rows)
    }

    /// The id of an initializer token.
    ///
    /// `name` is an entry of the vocabulary, or else a whole word: `ktn` is a piece within words in one vocabulary, and a
    /// word in another. `None` if it is neither.
    pub(crate) fn initializer_id(&self, name: &str) -> Option<u32> {
        self.token_id(name).or_else(|| self.token_id(&format!("{name}</w>")))
    }

    /// The embedding row of an initializer token, as [`Self::initializer_id`] finds it.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if the vocabulary does not have it.
    pub(crate) fn initializer_row(&self, name: &str) -> Result<Vec<f32>> {
        let id = self.initializer_id(name).ok_or_else(|| {
            EngineError::InvalidInput(format!(
                "initializer_tokens: `{name}` is not an entry of the model's vocabulary"
            ))
        })?;
        self.embedding_row(id)
    }

    /// The id of a raw vocabulary entry, such as `ktn` (within a word) or `dog</w>` (at its end).
    pub fn token_id(&self, entry: &str) -> Option<u32> {
        self.tokenizer.token_id(entry)
    }

    /// The embedding row of a vocabulary entry, `(hidden_size,)`.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for an id beyond the vocabulary.
    pub fn embedding_row(&self, id: u32) -> Result<Vec<f32>> {
        self.text_encoder.embedding_row(id)
    }

    /// Rows of the embedding table; the first modifier token has this id.
    pub fn vocab_size(&self) -> usize {
        self.text_encoder.vocab_size()
    }

    /// Tokens of a prompt with its begin and end marks and its padding.
    pub fn max_length(&self) -> usize {
        self.tokenizer.max_length()
    }

    /// Width of the features.
    pub fn hidden_size(&self) -> usize {
        self.text_encoder.hidden_size()
    }

    /// The network alone, which a training takes gradients through.
    pub fn text_encoder(&self) -> &ClipTextEncoder {
        &self.text_encoder
    }

    /// The tokenizer and the text encoder must fit each other.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (limit, positions) = (self.max_length(), self.text_encoder.max_position_embeddings());
        if limit > positions {
            return Err(format!(
                "the tokenizer's limit is {limit}, the text encoder has {positions} positions"
            ));
        }
        let (vocabulary, rows) = (self.tokenizer.vocab_size(), self.text_encoder.vocab_size());
        if vocabulary > rows {
            return Err(format!(
                "the vocabulary has {vocabulary} entries, the embedding table {rows} rows"
            ));
        }
        Ok(())
    }
}

/// Whether a text in brackets could have been meant as a modifier token: one that is too long, for instance.
fn is_like_a_token(bracketed: &str) -> bool {
    let word = bracketed.trim_start_matches('<').trim_end_matches('>');
    word.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}
