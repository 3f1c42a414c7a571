//! A compression: a delta with the change of each matrix in fewer numbers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::code::Code;
use super::delta_use::DeltaUse;
use super::digest::Digest;
use super::id::ConceptId;
use super::invalid::{Checks, FieldError, Invalid};
use super::number::decimal;
use super::version::TaskVersion;

/// Ranks that a request can ask for. What is above a matrix's smaller side counts as that.
pub const MAX_RANK: usize = 1024;

/// How much of each matrix's change is kept.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// So many of the largest singular values, or all of a matrix that has fewer.
    Rank(usize),
    /// As few of the largest singular values as make up this share of their sum.
    Energy(f64),
}

impl Keep {
    /// Reads the fields `rank` and `energy` of a request.
    ///
    /// # Errors
    /// If not exactly one of them is given, or if it is out of range.
    pub fn new(rank: Option<usize>, energy: Option<f64>) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        let keep = match (rank, energy.map(decimal)) {
            (Some(rank), None) => {
                checks.in_range(rank, 1..=MAX_RANK, "/rank");
                Self::Rank(rank)
            }
            (None, Some(energy)) => {
                checks.positive(energy, 1.0, "/energy");
                Self::Energy(energy)
            }
            (None, None) => {
                let detail = "say how much to keep: a rank, such as 4, or an energy, such as 0.6";
                return Err(FieldError::new("/rank", Code::MissingField, detail).into());
            }
            (Some(_), Some(_)) => {
                let detail = "a rank and an energy contradict each other: leave one of them out";
                return Err(FieldError::new("/energy", Code::ConflictingFields, detail).into());
            }
        };
        checks.finish()?;
        Ok(keep)
    }

    pub fn rank(self) -> Option<usize> {
        match self {
            Self::Rank(rank) => Some(rank),
            Self::Energy(_) => None,
        }
    }

    pub fn energy(self) -> Option<f64> {
        match self {
            Self::Energy(energy) => Some(energy),
            Self::Rank(_) => None,
        }
    }
}

/// The task to compress this delta.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompressionTask {
    #[serde(default)]
    pub version: TaskVersion,
    /// Refuses a worker that has another base model.
    pub base_digest: Digest,
    /// At strength 1.
    pub delta: DeltaUse,
    /// Of its file.
    pub source_size_bytes: i64,
    /// What it contains.
    pub concepts: Vec<ConceptId>,
    pub keep: Keep,
    /// Whether the result becomes the current delta of its concepts.
    pub make_current: bool,
}

/// What a compression has kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompressionReport {
    /// Every matrix that the delta changes, in the order of their names.
    pub matrices: Vec<CompressedMatrix>,
    /// The kept share of the sum of all singular values.
    pub kept_energy: f64,
    /// `‖ΔW − ΔW′‖ / ‖ΔW‖` over all matrices, in Frobenius norms: 0 keeps the change exactly.
    pub error: f64,
    /// Size of the delta's file before, in bytes.
    pub source_size_bytes: i64,
    /// Size of the resulting delta's file, in bytes.
    pub size_bytes: i64,
}

/// What is kept of one matrix's change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompressedMatrix {
    /// The matrix under its name in diffusers.
    pub weight: String,
    /// The number of singular values that are kept.
    pub rank: usize,
    /// Their share of the sum of all. 1 for a matrix that is not changed.
    pub kept_energy: f64,
    /// `‖ΔW − ΔW′‖ / ‖ΔW‖` in Frobenius norms.
    pub error: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_way_to_say_how_much_is_kept() {
        assert_eq!(Keep::new(Some(4), None).unwrap(), Keep::Rank(4));
        assert_eq!(Keep::new(None, Some(0.6)).unwrap(), Keep::Energy(0.6));
        assert_eq!(Keep::new(None, Some(1.0)).unwrap(), Keep::Energy(1.0));
        for (rank, energy, pointer, code) in [
            (None, None, "/rank", Code::MissingField),
            (Some(4), Some(0.6), "/energy", Code::ConflictingFields),
            (Some(0), None, "/rank", Code::OutOfRange),
            (Some(1025), None, "/rank", Code::OutOfRange),
            (None, Some(0.0), "/energy", Code::OutOfRange),
            (None, Some(1.1), "/energy", Code::OutOfRange),
            (None, Some(f64::NAN), "/energy", Code::OutOfRange),
        ] {
            let invalid = Keep::new(rank, energy).unwrap_err();

            assert_eq!(
                (invalid.0[0].pointer.as_str(), invalid.0[0].code),
                (pointer, code),
                "{rank:?} {energy:?}"
            );
        }
    }
}
