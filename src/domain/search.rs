//! What is looked for in a list by its words.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most characters of a search.
pub const MAX_SEARCH: usize = 200;

/// A text whose words are looked for in a list: an item fits if it contains every one of them, as whole words or parts of words, in any
/// order and without regard to case. Without a word, every item fits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, max_length = 200, examples("golden retriever"))]
pub struct SearchText(String);

/// A text that is too long to be looked for.
#[derive(Debug, thiserror::Error)]
#[error("a search has at most {MAX_SEARCH} characters: leave some words out")]
pub struct InvalidSearchText;

impl SearchText {
    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.words().next().is_none()
    }

    /// A pattern for SQL's `like` for each word, in lower case: `%beach%`. What `like` takes as a wildcard stands for itself.
    pub fn patterns(&self) -> Vec<String> {
        let pattern = |word: &str| {
            let mut pattern = String::from("%");
            for character in word.to_lowercase().chars() {
                if matches!(character, '\\' | '%' | '_') {
                    pattern.push('\\');
                }
                pattern.push(character);
            }
            pattern.push('%');
            pattern
        };
        self.words().map(pattern).collect()
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        let separates = |character: char| character.is_whitespace() || character.is_control();
        self.0.split(separates).filter(|word| !word.is_empty())
    }
}

impl TryFrom<String> for SearchText {
    type Error = InvalidSearchText;

    fn try_from(text: String) -> Result<Self, InvalidSearchText> {
        if text.chars().count() <= MAX_SEARCH { Ok(Self(text)) } else { Err(InvalidSearchText) }
    }
}

impl From<SearchText> for String {
    fn from(search: SearchText) -> Self {
        search.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_a_pattern_in_which_nothing_is_a_wildcard() {
        for (text, expected) in [
            ("", &[][..]),
            (" \t\0 ", &[]),
            ("Golden  RETRIEVER", &["%golden%", "%retriever%"]),
            ("100%\n<a_b> c:\\d", &["%100\\%%", "%<a\\_b>%", "%c:\\\\d%"]),
            ("École", &["%école%"]),
        ] {
            let search = SearchText::try_from(text.to_owned()).unwrap();
            assert_eq!(search.patterns(), expected, "{text:?}");
            assert_eq!(search.is_empty(), expected.is_empty(), "{text:?}");
        }
        assert!(SearchText::try_from("ä".repeat(200)).is_ok());
        assert!(SearchText::try_from("ä".repeat(201)).is_err());
    }
}
