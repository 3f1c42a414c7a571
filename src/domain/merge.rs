//! A merge: several deltas become one, in closed form (the paper's §3.3).

pub mod options;
pub mod verdict;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::delta_use::DeltaUse;
use super::digest::Digest;
use super::id::ConceptId;
use super::version::TaskVersion;

pub use self::verdict::{Reason, Verdict};

/// μ of soft constraints that a request can ask for.
///
/// Below, concepts are gone; above, a merge is as good as hard.
pub const CONSTRAINT_WEIGHTS: RangeInclusive<f64> = 0.1..=1e8;

/// Captions that a request can give.
pub const CAPTIONS: RangeInclusive<usize> = 20..=2000;

/// The most bytes of all captions of a request together: room for 2000 captions that a text encoder takes whole. The captions
/// are kept with the job.
pub const MAX_CAPTIONS_BYTES: usize = 256 * 1024;

/// How several deltas are merged, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MergeRecipe {
    #[serde(flatten)]
    pub constraint: Constraint,
    /// Ordinary prompts whose keys and values should stay as they are. Null for the captions of the base model's class images.
    #[serde(default)]
    pub captions: Option<Vec<String>>,
    /// Which texts keep exactly the keys and values of the base model.
    #[serde(default = "Protected::all")]
    pub protect: Vec<Protected>,
}

/// How firmly a merge preserves the keys and values of each concept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Constraint {
    /// As closely as the weight asks for, balanced against the changes to other captions.
    Soft {
        /// Weight μ of the constraints. A larger weight preserves the concepts more closely.
        constraint_weight: f64,
    },
    /// Exactly, as in the paper: at each concept's name and the end token after it, in two templates. This is impossible where
    /// concepts contradict each other, and gives noise where they nearly do.
    Hard,
}

/// A kind of text whose keys and values a merge leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protected {
    /// The empty prompt, which unconditional guidance uses, and with it the start token of every prompt.
    EmptyPrompt,
    /// The class nouns of the concepts, without their modifier tokens.
    ClassNouns,
}

impl Constraint {
    /// Measured on `tiny`: see ADR 0003.
    pub const DEFAULT: Self = Self::Soft { constraint_weight: 1e3 };

    /// μ; `None` asks for equality.
    pub fn weight(self) -> Option<f64> {
        match self {
            Self::Soft { constraint_weight } => Some(constraint_weight),
            Self::Hard => None,
        }
    }
}

impl Protected {
    /// Every kind, in the order of the documentation.
    pub fn all() -> Vec<Self> {
        vec![Self::EmptyPrompt, Self::ClassNouns]
    }

    /// What a merge protects unless it is told: nothing under hard constraints, as in the paper. Of features as near to the
    /// concepts' own as these, equality asks for more than the matrices can give (ADR 0030).
    pub fn by_default(constraint: Constraint) -> Vec<Self> {
        match constraint {
            Constraint::Soft { .. } => Self::all(),
            Constraint::Hard => Vec::new(),
        }
    }
}

impl Default for MergeRecipe {
    fn default() -> Self {
        Self { constraint: Constraint::DEFAULT, captions: None, protect: Protected::all() }
    }
}

/// How far a merge is from what was asked of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeReport {
    /// `‖W Cᵀ − V‖ / ‖V − W₀ Cᵀ‖` over the concepts' rows: 0 keeps every concept as it was learned.
    pub constraint_error: f64,
    /// `‖ΔW cᵀ‖ / ‖W₀ cᵀ‖` on captions that were kept aside: 0 leaves ordinary prompts alone.
    pub drift: f64,
    /// Condition number of the linear system.
    pub condition: f64,
    /// The constraint error over each delta's own rows.
    pub deltas: Vec<f64>,
    /// For each delta, how much of its change at its concepts' names is left where the names follow another thing's. `None`
    /// if its merge pack is from before this was known; empty in such reports.
    #[serde(default)]
    pub kept_after_other: Vec<Option<f64>>,
    /// Every two deltas, without the others.
    pub pairs: Vec<PairReport>,
}

/// How well two deltas go together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairReport {
    /// Which deltas.
    pub pair: (usize, usize),
    /// The largest cosine between what they ask for; 1 is a row in common.
    pub overlap: f64,
    /// The constraint error of the two merged.
    pub constraint_error: f64,
    /// The same if each of them were merged with nothing: what the soft constraints cost anyway.
    pub constraint_error_alone: f64,
    /// The drift of the two merged.
    pub drift: f64,
    /// The smaller of what the two deltas keep after another thing's name.
    #[serde(default)]
    pub kept_after_other: Option<f64>,
}

impl MergeReport {
    /// The worst of what is said about the pairs and about all deltas together.
    pub fn verdict(&self) -> Verdict {
        let pairs = self.pairs.iter().map(PairReport::verdict);
        pairs.fold(Verdict::of_drift(self.drift), Verdict::max)
    }

    /// What the verdict is due to, if it is not ok.
    pub fn reason(&self) -> Reason {
        let verdict = self.verdict();
        let drifts = self.pairs.iter().map(|pair| pair.drift).chain([self.drift]);
        if drifts.into_iter().any(|drift| Verdict::of_drift(drift) == verdict) {
            return Reason::Drift;
        }
        let worse = self.pairs.iter().any(|pair| {
            Verdict::of_errors(pair.constraint_error, pair.constraint_error_alone) == verdict
        });
        if worse { Reason::ConstraintError } else { Reason::SecondPlace }
    }
}

impl PairReport {
    pub fn verdict(&self) -> Verdict {
        Verdict::of_pair(
            self.constraint_error,
            self.constraint_error_alone,
            self.drift,
            self.kept_after_other,
        )
    }
}

/// The task to merge these deltas into one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MergeTask {
    #[serde(default)]
    pub version: TaskVersion,
    /// Refuses a worker that has another base model.
    pub base_digest: Digest,
    pub deltas: Vec<DeltaUse>,
    /// The concepts that the merged delta contains.
    pub concepts: Vec<ConceptId>,
    #[serde(default)]
    pub recipe: MergeRecipe,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_survives_its_json_and_reads_flat() {
        let recipe = MergeRecipe { constraint: Constraint::Hard, ..MergeRecipe::default() };

        let json = serde_json::to_value(&recipe).unwrap();

        assert_eq!(json["method"], "hard");
        assert_eq!(serde_json::from_value::<MergeRecipe>(json).unwrap(), recipe);
        let soft = serde_json::to_value(MergeRecipe::default()).unwrap();
        assert_eq!((&soft["method"], &soft["constraint_weight"]), (&"soft".into(), &1e3.into()));
    }

    #[test]
    fn a_task_from_before_recipes_still_parses() {
        let task = serde_json::json!({ "base_digest": "a", "deltas": [], "concepts": [] });

        let task: MergeTask = serde_json::from_value(task).unwrap();

        assert_eq!(task.recipe, MergeRecipe::default());
    }
}
