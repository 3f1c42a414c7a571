//! Promotions: which delta of a concept is its current one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::id::DeltaId;

/// Whether the delta of a training becomes the current delta of the concepts that it teaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Promote {
    /// If the concept has no current delta yet.
    #[default]
    Auto,
    /// When the training has succeeded, whatever the current delta is.
    Always,
    /// Only by a later request.
    Never,
}

impl Promote {
    /// What trainings of earlier versions did.
    pub fn before_there_was_a_choice() -> Self {
        Self::Always
    }
}

/// What made a delta the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type, ToSchema)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Promoter {
    /// The training or compression that made the delta.
    Job,
    /// A request to promote it.
    Request,
}

/// A delta that became the current one of a concept.
#[derive(Clone, Debug, PartialEq)]
pub struct Promotion {
    /// Grows with every promotion.
    pub number: i64,
    pub delta_id: DeltaId,
    pub promoted_by: Promoter,
    pub promoted_at: DateTime<Utc>,
    /// When a roll-back made it count no longer.
    pub rolled_back_at: Option<DateTime<Utc>>,
}
