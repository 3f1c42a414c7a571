//! Warnings: what a request is accepted with, although its result may suffer from it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::code::Code;
use super::invalid::FieldError;
use super::merge::{MergeReport, Reason, Verdict};

/// Something that a request is accepted with, although its result may suffer from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    pub code: Code,
    /// For people: what to expect, and what helps.
    pub detail: String,
    /// JSON pointer to the field of the request that would change it, such as `/composition`.
    #[schema(examples("/prompt"))]
    pub pointer: String,
}

impl Warning {
    pub fn new(code: Code, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let FieldError { pointer, code, detail } = FieldError::new(pointer, code, detail);
        Self { code, detail, pointer }
    }

    /// What a report on merged deltas gives reason to warn of.
    ///
    /// - `pointer`: the field that would change it
    pub fn of_merge(report: &MergeReport, pointer: &str) -> Option<Self> {
        let code = match report.verdict() {
            Verdict::Ok => return None,
            Verdict::Risky => Code::MergeRisky,
            Verdict::Conflict => Code::MergeConflict,
        };
        let what = match report.reason() {
            Reason::Drift => {
                "merging these concepts changes other words as well, and images may be noise"
            }
            Reason::ConstraintError => "these concepts ask for different things in the same words",
            Reason::SecondPlace => "merged, one of these concepts is likely to be plain or absent",
        };
        let detail = format!(
            "{what}: ask for the composition `regional`, or read POST /v1/merges/check for how they go together"
        );
        Some(Self { code, detail, pointer: pointer.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::merge::PairReport;

    fn report(constraint_error: f64, drift: f64, kept_after_other: f64) -> MergeReport {
        let pair = PairReport {
            pair: (0, 1),
            overlap: 0.98,
            constraint_error,
            constraint_error_alone: 0.1,
            drift,
            kept_after_other: Some(kept_after_other),
        };
        MergeReport {
            constraint_error,
            drift,
            condition: 200.0,
            deltas: vec![constraint_error; 2],
            kept_after_other: vec![Some(kept_after_other); 2],
            pairs: vec![pair],
        }
    }

    #[test]
    fn a_merge_is_warned_of_by_its_verdict_with_its_reason() {
        for (report, code, word) in [
            (report(0.12, 0.3, 0.4), Code::MergeRisky, "absent"),
            (report(0.12, 2.0, 0.95), Code::MergeConflict, "noise"),
            (report(0.5, 0.3, 0.95), Code::MergeConflict, "same words"),
        ] {
            let warning = Warning::of_merge(&report, "/composition").unwrap();

            assert_eq!(warning.code, code);
            assert!(warning.detail.contains(word), "{}", warning.detail);
        }
        assert_eq!(Warning::of_merge(&report(0.12, 0.3, 0.95), "/composition"), None);
    }
}
