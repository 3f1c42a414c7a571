//! A concept: the thing that a user's photos show, and the words that stand for it.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::id::{ConceptId, DeltaId};
use super::record::Record;

/// The word that stands for a concept in prompts, such as `<new1>`.
///
/// The brackets distinguish it from ordinary words, so that it always becomes one new embedding row.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
#[schema(value_type = String, pattern = "^<[a-z0-9_-]{1,32}>$", examples("<rex>"))]
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

/// Finds what stands in angle brackets in a prompt: the modifier tokens in order of appearance, each once.
///
/// # Errors
/// The first text in brackets that cannot be a modifier token, such as `<Rex>`. It would be split into ordinary tokens
/// and silently mean nothing.
pub fn modifier_tokens_in(prompt: &str) -> Result<Vec<ModifierToken>, InvalidModifierToken> {
    let mut tokens = Vec::new();
    let mut seen = HashSet::new();
    for (start, _) in prompt.match_indices('<') {
        let rest = &prompt[start + 1..];
        let Some(end) = rest.find(['<', '>']) else { break };
        let (word, closing) = (&rest[..end], &rest[end..end + 1]);
        if closing == "<" || word.is_empty() || word.contains(char::is_whitespace) {
            continue; // "3 < 4" or "<3" in a prompt are not meant as tokens
        }
        let token = ModifierToken::try_from(format!("<{word}>"))?;
        if seen.insert(token.clone()) {
            tokens.push(token);
        }
    }
    Ok(tokens)
}

/// A concept's name in requests and paths, unique among all concepts.
#[derive(
    Clone,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", examples("rex"))]
pub struct Handle(String);

/// A text that cannot be a handle.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a handle: write 1 to 63 lower-case letters, digits, - or _, starting with a letter or digit and not with cpt_"
)]
pub struct InvalidHandle(pub String);

impl Handle {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Handle {
    type Error = InvalidHandle;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        // An id is never a handle, so that a request can name a concept by either.
        if starts_well && text.len() <= 63 && is_lowercase_word(&text) && !text.starts_with("cpt_")
        {
            Ok(Self(text))
        } else {
            Err(InvalidHandle(text))
        }
    }
}

impl From<Handle> for String {
    fn from(handle: Handle) -> Self {
        handle.0
    }
}

impl std::fmt::Display for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A concept as a request names it: by id or by handle.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum ConceptRef {
    Id(ConceptId),
    Handle(Handle),
}

impl TryFrom<String> for ConceptRef {
    type Error = InvalidHandle;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.parse() {
            Ok(id) => Ok(Self::Id(id)),
            Err(_) => Handle::try_from(text).map(Self::Handle),
        }
    }
}

impl ConceptRef {
    /// Whether this names `concept`.
    pub fn names(&self, concept: &Concept) -> bool {
        match self {
            Self::Id(id) => *id == concept.concept_id,
            Self::Handle(handle) => *handle == concept.handle,
        }
    }
}

impl std::fmt::Display for ConceptRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Handle(handle) => handle.fmt(f),
        }
    }
}

/// The ordinary word for what a concept is, such as `dog` or `teddy bear`.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[sqlx(transparent)]
#[schema(value_type = String, max_length = 64, examples("teddy bear"))]
pub struct ClassNoun(String);

/// A text that cannot be a class noun.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a class noun: write one to four words of letters, digits, - or ', at most 64 characters, such as dog or teddy bear"
)]
pub struct InvalidClassNoun(pub String);

impl ClassNoun {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ClassNoun {
    type Error = InvalidClassNoun;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let plain =
            |word: &&str| word.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '\'');
        if (1..=4).contains(&words.len()) && words.iter().all(plain) && text.chars().count() <= 64 {
            Ok(Self(words.join(" ")))
        } else {
            Err(InvalidClassNoun(text))
        }
    }
}

impl From<ClassNoun> for String {
    fn from(noun: ClassNoun) -> Self {
        noun.0
    }
}

impl std::fmt::Display for ClassNoun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The words that stand for a concept in prompts and captions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConceptWords {
    /// The word before the class noun. Null if the class noun alone stands for the concept, because the base model does not
    /// know the class.
    pub modifier_token: Option<ModifierToken>,
    /// The ordinary word for what the concept is.
    pub class_noun: ClassNoun,
}

impl ConceptWords {
    /// The concept's name in a prompt: `<rex> dog`, or the class noun alone.
    pub fn in_prompt(&self) -> String {
        match &self.modifier_token {
            Some(token) => format!("{token} {}", self.class_noun),
            None => self.class_noun.to_string(),
        }
    }
}

/// A thing that a user teaches: its names, and its newest delta once it has been trained.
#[derive(Clone, Debug)]
pub struct Concept {
    pub concept_id: ConceptId,
    pub handle: Handle,
    pub words: ConceptWords,
    /// The delta that a prompt uses if it names the concept and no delta.
    pub current_delta: Option<DeltaId>,
    pub created_at: DateTime<Utc>,
    pub record: Record,
}

fn is_short_lowercase_word(word: &str) -> bool {
    (1..=32).contains(&word.len()) && is_lowercase_word(word)
}

fn is_lowercase_word(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The words of a concept.
    pub(crate) fn words(token: Option<&str>, noun: &str) -> ConceptWords {
        ConceptWords {
            modifier_token: token.map(|token| token.to_owned().try_into().unwrap()),
            class_noun: ClassNoun::try_from(noun.to_owned()).unwrap(),
        }
    }

    fn tokens(prompt: &str) -> Vec<String> {
        modifier_tokens_in(prompt).unwrap().into_iter().map(String::from).collect()
    }

    #[test]
    fn modifier_tokens_are_found_once_each_and_in_order() {
        assert_eq!(tokens("a <rex> dog, <gate>, and a <rex>dog"), ["<rex>", "<gate>"]);
    }

    #[test]
    fn very_many_modifier_tokens_are_found_at_once() {
        let prompt: String = (0..170_000).map(|index| format!("<{index:x}>")).collect();
        let began = std::time::Instant::now();

        assert_eq!(modifier_tokens_in(&prompt).unwrap().len(), 170_000);
        assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    }

    #[test]
    fn brackets_that_are_not_meant_as_tokens_are_left_alone() {
        assert!(tokens("3 < 4 > 2, i <3 you, <, <>, a << b").is_empty());
        assert_eq!(tokens("a <<rex>"), ["<rex>"]);
    }

    #[test]
    fn a_bracketed_word_that_is_no_token_is_an_error() {
        assert_eq!(modifier_tokens_in("a <Rex> dog").unwrap_err().0, "<Rex>");
    }

    #[test]
    fn a_concept_is_named_by_its_token_and_noun_or_by_its_noun_alone() {
        let class_noun = ClassNoun::try_from("teddy bear".to_owned()).unwrap();
        let modifier_token = Some(ModifierToken::try_from("<ted>".to_owned()).unwrap());

        let known = ConceptWords { modifier_token, class_noun: class_noun.clone() };
        let unknown = ConceptWords { modifier_token: None, class_noun };

        assert_eq!(known.in_prompt(), "<ted> teddy bear");
        assert_eq!(unknown.in_prompt(), "teddy bear");
    }

    #[test]
    fn handles_and_nouns_are_parsed_once() {
        for handle in ["rex", "2-dogs_a"] {
            assert!(Handle::try_from(handle.to_owned()).is_ok(), "{handle}");
        }
        for handle in ["", "Rex", "-rex", "cpt_x", "a b", &"a".repeat(64)] {
            assert!(Handle::try_from(handle.to_owned()).is_err(), "{handle}");
        }
        assert_eq!(ClassNoun::try_from(" teddy  bear".to_owned()).unwrap().as_str(), "teddy bear");
        for noun in ["", " ", "<rex> dog", "one two three four five", "{}"] {
            assert!(ClassNoun::try_from(noun.to_owned()).is_err(), "{noun}");
        }
    }
}
