//! A concept: the thing that a user's photos show, and the words that stand for it.

use serde::{Deserialize, Serialize};

/// The word that stands for a concept in prompts, such as `<new1>`.
///
/// The brackets keep it apart from ordinary words, so that it always becomes one new embedding row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModifierToken(String);

/// A text that cannot be a modifier token.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a modifier token: write a lower-case word of at most 32 letters, digits, - or _ in angle brackets, such as <rex>"
)]
pub struct InvalidModifierToken(pub String);

impl ModifierToken {
    /// The token with its brackets, as it stands in a prompt.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ModifierToken {
    type Error = InvalidModifierToken;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let word = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
        match word {
            Some(word) if is_short_lowercase_word(word) => Ok(Self(text)),
            Some(_) | None => Err(InvalidModifierToken(text)),
        }
    }
}

impl From<ModifierToken> for String {
    fn from(token: ModifierToken) -> Self {
        token.0
    }
}

impl std::fmt::Display for ModifierToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_short_lowercase_word(word: &str) -> bool {
    (1..=32).contains(&word.len())
        && word
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}
