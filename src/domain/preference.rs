//! A preference study: people choose between images of two subjects, for the prompt and for the concept.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::digest::Digest;
use super::id::{EvaluationId, ImageId};

/// Pairs of a study.
pub const PAIRS: RangeInclusive<usize> = 1..=1000;
/// Pairs of a study unless the request says otherwise.
pub const DEFAULT_PAIRS: usize = 50;
/// Links that one request can make.
pub const LINKS: RangeInclusive<usize> = 1..=1000;

/// What people are asked about two images, as in the paper's Table 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Criterion {
    /// Which image fits the text better.
    Text,
    /// Which image shows the thing of the photos better.
    Image,
}

impl Criterion {
    pub const ALL: [Self; 2] = [Self::Text, Self::Image];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Image => "image",
        }
    }
}

/// One of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Choice {
    First,
    Second,
}

impl Choice {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Second => "second",
        }
    }
}

/// What a study compares; it never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyDefinition {
    /// The two that are compared.
    pub sides: [StudySide; 2],
    /// Photos of the concepts.
    pub photos: Vec<ImageId>,
    pub pairs: Vec<StudyPair>,
}

/// A subject of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StudySide {
    pub evaluation: EvaluationId,
    /// The name of the subject.
    pub subject: String,
}

/// Two images of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyPair {
    /// The prompt without modifier tokens, which people would not understand.
    pub prompt: String,
    pub images: [ImageId; 2],
}

/// Which image stands on the left for this link and pair: by chance, and always the same.
pub fn left_of(token: &str, pair: usize) -> Choice {
    let digest = Digest::of(format!("{token}/{pair}"));
    let is_even = digest.bytes().next().is_some_and(|byte| byte % 2 == 0);
    if is_even { Choice::First } else { Choice::Second }
}

impl Choice {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// Its place among the two.
    pub fn index(self) -> usize {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_stands_on_the_left_about_half_of_the_time() {
        let first = (0..1000).filter(|pair| left_of("token", *pair) == Choice::First).count();

        assert!((450..=550).contains(&first), "{first}");
        assert_eq!(left_of("token", 3), left_of("token", 3));
    }
}
