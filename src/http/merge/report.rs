//! How well deltas go together: in the answer to a check and with a merge that has succeeded.

use serde::Serialize;
use utoipa::ToSchema;

use crate::app::merge::check::CheckedPair;
use crate::domain::concept::Handle;
use crate::domain::delta_use::DeltaUse;
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::merge::verdict::WayToCompose;
use crate::domain::merge::{MergeReport, PairReport, Verdict};

/// How well a merge preserves what it merges.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MergeReportBody {
    /// The worst verdict among those on the pairs and the one on all deltas together.
    verdict: Verdict,
    /// How far the concepts are from what was learned, measured at their own words: 0 is unchanged, 1 is gone.
    constraint_error: f64,
    /// How far the keys and values of other captions move, relative to their length.
    drift: f64,
    /// Condition number of the linear system. Null if it is not finite.
    condition: f64,
    /// The deltas, in the order of the request.
    deltas: Vec<CheckedDeltaBody>,
    /// Every two of the deltas, merged without the others.
    pairs: Vec<CheckedPairBody>,
}

impl MergeReportBody {
    /// - `deltas`: what was merged, in the order of the report
    pub(crate) fn new(report: &MergeReport, deltas: &[DeltaUse]) -> Self {
        let pair = |pair: &PairReport| {
            let (one, other) = pair.pair;
            let deltas = [deltas[one].delta_id, deltas[other].delta_id];
            CheckedPair { deltas, report: pair.clone(), recommended: None, train_jointly: None }
                .into()
        };
        Self {
            verdict: report.verdict(),
            constraint_error: report.constraint_error,
            drift: report.drift,
            condition: report.condition,
            deltas: checked_deltas(report, deltas),
            pairs: report.pairs.iter().map(pair).collect(),
        }
    }
}

/// One delta among the others.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckedDeltaBody {
    delta: DeltaId,
    /// How much of the delta is applied.
    strength: f64,
    /// The constraint error at this delta's own words.
    constraint_error: f64,
    /// How much of the delta's change at its concepts' names is left where the names follow another thing's: 1 is all of it.
    /// Null if its merge pack is from before this was known.
    kept_after_other: Option<f64>,
}

/// Two deltas.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckedPairBody {
    /// The two deltas.
    #[schema(min_items = 2, max_items = 2)]
    deltas: [DeltaId; 2],
    /// The largest cosine between the text features whose keys and values the two deltas change; 1 means the same feature.
    overlap: f64,
    /// The constraint error of the two deltas merged.
    constraint_error: f64,
    /// The constraint error if each of the two deltas is merged by itself.
    constraint_error_alone: f64,
    /// The drift of the two deltas merged.
    drift: f64,
    /// The smaller of what the two deltas keep after another thing's name. Null if it is not known of both.
    kept_after_other: Option<f64>,
    verdict: Verdict,
    /// How to get the concepts of the two into one image. Null in the report of a merge.
    recommended: Option<RecommendedBody>,
    /// What to do instead. Null if the verdict is `ok`, and in the report of a merge.
    suggestion: Option<SuggestionBody>,
}

/// A way to get several concepts into one image.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RecommendedBody {
    method: WayToCompose,
    /// The reason, for people.
    #[schema(value_type = String)]
    detail: &'static str,
}

impl From<WayToCompose> for RecommendedBody {
    fn from(method: WayToCompose) -> Self {
        Self { method, detail: method.reason() }
    }
}

/// A request that serves better.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuggestionBody {
    /// The reason, for people.
    detail: String,
    /// Method of the request.
    #[schema(value_type = String, examples("POST"))]
    method: &'static str,
    /// Path of the request.
    #[schema(value_type = String, examples("/v1/trainings"))]
    path: &'static str,
    body: SuggestedTrainingBody,
}

/// The body of a joint training.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuggestedTrainingBody {
    /// The concepts to train jointly.
    concepts: Vec<ConceptId>,
}

/// Each delta with its own constraint error.
pub(crate) fn checked_deltas(report: &MergeReport, deltas: &[DeltaUse]) -> Vec<CheckedDeltaBody> {
    let checked = deltas.iter().zip(&report.deltas).enumerate();
    let checked = checked.map(|(index, (used, error))| CheckedDeltaBody {
        delta: used.delta_id,
        strength: used.strength,
        constraint_error: *error,
        kept_after_other: report.kept_after_other.get(index).copied().flatten(),
    });
    checked.collect()
}

impl From<CheckedPair> for CheckedPairBody {
    fn from(CheckedPair { deltas, report, recommended, train_jointly }: CheckedPair) -> Self {
        Self {
            deltas,
            overlap: report.overlap,
            constraint_error: report.constraint_error,
            constraint_error_alone: report.constraint_error_alone,
            drift: report.drift,
            kept_after_other: report.kept_after_other,
            verdict: report.verdict(),
            recommended: recommended.map(RecommendedBody::from),
            suggestion: train_jointly.map(SuggestionBody::from),
        }
    }
}

impl From<Vec<(ConceptId, Handle)>> for SuggestionBody {
    fn from(concepts: Vec<(ConceptId, Handle)>) -> Self {
        let (concepts, handles): (Vec<ConceptId>, Vec<String>) =
            concepts.into_iter().map(|(id, handle)| (id, format!("`{handle}`"))).unzip();
        let detail = format!(
            "{} can be trained jointly as well, into one delta: each then learns what the other is not",
            handles.join(" and ")
        );
        Self {
            detail,
            method: "POST",
            path: "/v1/trainings",
            body: SuggestedTrainingBody { concepts },
        }
    }
}
