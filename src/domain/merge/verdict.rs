//! Verdicts on merges: what images of them are expected to show, and which way of composing to take.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::composition::options::MAX_REGIONS;
use crate::domain::concept::ConceptWords;

/// How well deltas go together, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The concepts look as they do alone, and other prompts look as they do without them.
    Ok,
    /// One of the concepts is likely to be plain, weak or absent in images of both.
    Risky,
    /// The concepts contradict each other, or the merge spoils other prompts.
    Conflict,
}

/// Thresholds for the verdicts risky and conflict: how much a pair's constraint error exceeds that of its deltas alone.
const WORSE_THAN_ALONE: [f64; 2] = [0.1, 0.2];
/// The same for a merge's drift.
const DRIFTS: [f64; 2] = [0.7, 1.0];
/// What both deltas of a pair keep after another thing's name, at least, if both things are to be in the image. Fitted to images
/// of 56 pairs of `tiny`: see ADR 0030.
const KEPT_AFTER_OTHER: f64 = 0.92;

impl Verdict {
    /// The verdict on two deltas.
    ///
    /// - `constraint_error`, `constraint_error_alone`: merged, and without each other
    /// - `kept_after_other`: the smaller of what the two keep after another thing's name, if it is known
    pub fn of_pair(
        constraint_error: f64,
        constraint_error_alone: f64,
        drift: f64,
        kept_after_other: Option<f64>,
    ) -> Self {
        let second = match kept_after_other {
            Some(kept) if kept >= KEPT_AFTER_OTHER => Self::Ok,
            Some(_) | None => Self::Risky,
        };
        Self::of_errors(constraint_error, constraint_error_alone)
            .max(Self::of_drift(drift))
            .max(second)
    }

    /// The verdict on two deltas by what they cost each other at their own words.
    pub(super) fn of_errors(constraint_error: f64, constraint_error_alone: f64) -> Self {
        Self::beyond(constraint_error - constraint_error_alone, WORSE_THAN_ALONE)
    }

    /// The verdict on a merge by its effect on ordinary prompts.
    pub fn of_drift(drift: f64) -> Self {
        Self::beyond(drift, DRIFTS)
    }

    /// A value that is not a number is a conflict.
    fn beyond(value: f64, [risky, conflict]: [f64; 2]) -> Self {
        if value < risky {
            Self::Ok
        } else if value < conflict {
            Self::Risky
        } else {
            Self::Conflict
        }
    }
}

/// What a verdict is due to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Other prompts change.
    Drift,
    /// The concepts are further from what was learned than each is by itself.
    ConstraintError,
    /// Little is left of a concept that is named after another thing, or it is not known how much.
    SecondPlace,
}

/// A way to get several concepts into one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WayToCompose {
    /// `composition: {"method": "merge"}` of a sample: the deltas become one. It costs no further steps.
    Merge,
    /// `composition: {"method": "regional"}`: each concept is drawn alone in its region.
    Regional,
    /// `composition: {"method": "tokens"}`: each concept's keys and values at its own words only. It costs no further steps.
    Tokens,
    /// A training of all the concepts together.
    TrainJointly,
}

impl WayToCompose {
    /// The way to take with concepts whose merge has this verdict.
    pub fn recommended(verdict: Verdict, concepts: &[&ConceptWords]) -> Self {
        let shares_noun = concepts.iter().enumerate().any(|(index, one)| {
            concepts[..index].iter().any(|other| other.class_noun == one.class_noun)
        });
        match verdict {
            Verdict::Ok => Self::Merge,
            Verdict::Risky | Verdict::Conflict if concepts.len() > MAX_REGIONS => Self::Tokens,
            Verdict::Conflict if shares_noun => Self::TrainJointly,
            Verdict::Risky | Verdict::Conflict => Self::Regional,
        }
    }

    /// Why, for people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Merge => {
                "each concept keeps what it has learned also beside another thing, and a merge costs no further steps"
            }
            Self::Regional => {
                "merged, one of the concepts is likely to be plain or absent; regions draw each concept alone and keep both"
            }
            Self::Tokens => {
                "merged, some of the concepts are likely to be plain or absent, and these are more than a sample has regions: \
                 each concept at its own words disturbs the others least"
            }
            Self::TrainJointly => {
                "they ask for different things in the same words, and one class noun does not tell their regions apart: \
                 trained jointly, each learns what the other is not"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::concept::ClassNoun;

    #[test]
    fn a_verdict_is_about_what_the_other_concept_costs_and_about_other_prompts() {
        for (error, alone, drift, kept, verdict) in [
            (0.16, 0.13, 0.35, Some(0.93), Verdict::Ok), // a chair and a vase
            (0.15, 0.13, 0.26, Some(0.39), Verdict::Risky), // a dog and a gate: no gate in any image
            (0.12, 0.1, 0.29, Some(0.9), Verdict::Risky),   // a dog and a turtle: a plain dog
            (0.14, 0.12, 0.34, Some(0.79), Verdict::Risky), // a cat and a vase: a plain cat
            (0.14, 0.12, 0.34, None, Verdict::Risky),
            (0.13, 0.07, 0.38, Some(0.93), Verdict::Ok), // two dogs with tokens far apart
            (0.62, 0.27, 0.26, Some(0.93), Verdict::Conflict), // two dogs with tokens that hardly moved
            (0.30, 0.15, 0.30, Some(0.93), Verdict::Risky),
            (0.15, 0.13, 0.75, Some(0.93), Verdict::Risky),
            (0.15, 0.13, 1.5, Some(0.93), Verdict::Conflict),
            (f64::NAN, 0.1, 0.1, Some(0.93), Verdict::Conflict),
            (0.1, 0.1, 0.1, Some(f64::NAN), Verdict::Risky),
        ] {
            let given = Verdict::of_pair(error, alone, drift, kept);
            assert_eq!(given, verdict, "{error} {alone} {drift} {kept:?}");
        }
    }

    #[test]
    fn what_does_not_merge_is_drawn_by_regions_unless_they_are_too_many_or_of_one_noun() {
        let of = |noun: &str| ConceptWords {
            modifier_token: None,
            class_noun: ClassNoun::try_from(noun.to_owned()).unwrap(),
        };
        let (dog, cat) = (of("dog"), of("cat"));
        let crowd = vec![&dog; MAX_REGIONS + 1];
        for (verdict, concepts, way) in [
            (Verdict::Ok, vec![&dog, &cat], WayToCompose::Merge),
            (Verdict::Risky, vec![&dog, &cat], WayToCompose::Regional),
            (Verdict::Conflict, vec![&dog, &cat], WayToCompose::Regional),
            (Verdict::Risky, vec![&dog, &dog], WayToCompose::Regional),
            (Verdict::Conflict, vec![&dog, &dog], WayToCompose::TrainJointly),
            (Verdict::Conflict, crowd, WayToCompose::Tokens),
        ] {
            assert_eq!(WayToCompose::recommended(verdict, &concepts), way, "{verdict:?}");
        }
    }
}
