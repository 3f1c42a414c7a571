//! Regularization: which class images keep the class noun as it is while a concept is learned.

use serde::{Deserialize, Serialize};

use super::concept::ClassNoun;
use super::digest::Digest;
use super::image_set::{Generation, ImageSetRef};

/// The prompt that class images should match, unless a request gives another; `{}` is the class noun.
pub const CLASS_PROMPT: &str = "photo of a {}";

/// The paper's similarity of captions to the class prompt.
pub const PAPER_THRESHOLD: f64 = 0.85;

/// The most images that can be generated for one class.
pub const MAX_GENERATED: usize = 1_000;

/// Where a training's class images come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RegularizationSource {
    /// Images of a set whose captions are similar to the class prompt, as in the paper.
    Retrieved,
    /// Images of the class prompt that the base model generates ("w/ Gen" in the paper).
    Generated,
    /// Images of a set, without regard to similarity.
    Set,
    /// No class images. This is faster, but the class noun drifts towards the concept (figure 8 of the paper).
    None,
}

/// Which class images a training uses, in the words of version 0.1.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassImages {
    /// Those of the base model's class images whose caption contains the class noun; all of them if none does.
    #[default]
    Auto,
    /// None. This is faster, but the class noun drifts towards the concept (figure 8 of the paper).
    None,
}

/// Which images of a set are candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Those whose caption contains the class noun as whole words; all if none does.
    ClassNoun,
    /// All.
    #[default]
    All,
}

/// Which class images a training uses, resolved: every set by its digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum Regularization {
    None,
    Set {
        /// `None` in tasks from before there were sets, whose worker takes those of its own folder.
        set: Option<ImageSetRef>,
        select: Selection,
    },
    Retrieved {
        set: ImageSetRef,
        /// The digest of the model that compared the captions.
        evaluator: Digest,
        threshold: f64,
        /// One per concept, in the order of the concepts.
        concepts: Vec<Retrieved>,
    },
    Generated {
        /// One per concept, in the order of the concepts.
        concepts: Vec<Generated>,
    },
}

/// What was retrieved for one concept, best first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retrieved {
    pub prompt: String,
    pub images: Vec<RetrievedImage>,
}

/// An image of a set and how similar its caption is to the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievedImage {
    /// Its place in the set.
    pub index: usize,
    pub similarity: f64,
}

/// A set that is generated for one concept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    pub generation: Generation,
    /// The set, once it has been generated.
    pub set: Option<ImageSetRef>,
}

impl Regularization {
    pub fn source(&self) -> RegularizationSource {
        match self {
            Self::None => RegularizationSource::None,
            Self::Set { .. } => RegularizationSource::Set,
            Self::Retrieved { .. } => RegularizationSource::Retrieved,
            Self::Generated { .. } => RegularizationSource::Generated,
        }
    }

    /// What the field `class_images` means, which trainings had before this one.
    pub fn from_class_images(class_images: ClassImages, set: Option<ImageSetRef>) -> Self {
        match class_images {
            ClassImages::None => Self::None,
            ClassImages::Auto => Self::Set { set, select: Selection::ClassNoun },
        }
    }

    /// The same in the words of the field `class_images`.
    pub fn as_class_images(&self) -> ClassImages {
        match self {
            Self::None => ClassImages::None,
            Self::Set { .. } | Self::Retrieved { .. } | Self::Generated { .. } => ClassImages::Auto,
        }
    }
}

/// The class prompt of a noun.
///
/// - `template`: where `{}` stands for the noun, if it is there at all
pub fn class_prompt(template: &str, noun: &ClassNoun) -> String {
    template.replace("{}", noun.as_str())
}
