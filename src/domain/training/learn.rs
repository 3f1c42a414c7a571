//! What a training learns, and the delta that it goes on from.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::code::Code;
use crate::domain::delta_use::DeltaUse;
use crate::domain::id::ConceptId;
use crate::domain::invalid::Checks;

/// The largest rank of a training.
pub const MAX_RANK: usize = 256;

/// Which parts of a concept a training learns. What it does not learn stays as it was, and the delta does not contain it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Learn {
    /// The key projections of the cross-attention.
    #[schema(default = true)]
    pub key: bool,
    /// The value projections of the cross-attention.
    #[schema(default = true)]
    pub value: bool,
    /// The embedding rows of modifier tokens. A row that is not learned stays that of its initializer. A modifier token alone,
    /// without key and value, is Textual Inversion.
    #[schema(default = true)]
    pub modifier_token: bool,
}

impl Default for Learn {
    fn default() -> Self {
        Self { key: true, value: true, modifier_token: true }
    }
}

impl Learn {
    /// Whether any projection is learned.
    pub fn projections(self) -> bool {
        self.key || self.value
    }

    pub(super) fn check(self, rank: Option<usize>, checks: &mut Checks) {
        let learns = self.projections() || self.modifier_token;
        checks.require(learns, "/recipe/learn", Code::InvalidValue, || {
            "a training learns at least one of key, value and modifier_token".to_owned()
        });
        let Some(rank) = rank else { return };
        checks.in_range(rank, 1..=MAX_RANK, "/recipe/rank");
        checks.require(self.projections() || !learns, "/recipe/rank", Code::NotApplicable, || {
            "a rank is that of key and value projections, and neither is learned: leave it out"
                .to_owned()
        });
    }
}

/// The delta that a training goes on from, as its task names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StartFrom {
    #[serde(flatten)]
    pub delta: DeltaUse,
    /// Its concepts that the training does not teach. The new delta contains them as they were.
    pub concepts: Vec<ConceptId>,
}
