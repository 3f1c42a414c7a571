//! Merge checks: whether deltas go together, answered at once.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::StartMerge;
use crate::app::merge::check::{CheckedPair, MergeCheck};
use crate::app::{App, Caller};
use crate::domain::concept::Handle;
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::merge::{MergeRecipe, Verdict};
use crate::http::error::{ApiError, Problem};
use crate::http::extract::Json;

/// How well deltas go together.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MergeCheckBody {
    #[schema(value_type = String, examples("merge_check"))]
    object: &'static str,
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
    /// The complete recipe of the merge, with every default filled in.
    #[serde(flatten)]
    recipe: MergeRecipe,
}

/// One delta among the others.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckedDeltaBody {
    delta: DeltaId,
    /// How much of the delta is applied.
    strength: f64,
    /// The constraint error at this delta's own words.
    constraint_error: f64,
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
    verdict: Verdict,
    /// What to do instead. Null if the verdict is `ok`.
    suggestion: Option<SuggestionBody>,
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

/// Checks how well deltas go together, without merging them or generating an image.
///
/// The response is computed at once from what trainings have stored beside their deltas, without a device and without a
/// job. At strengths other than 1, the check uses the embedding rows of modifier tokens as they were learned, while the
/// merge itself scales them. Each pair of deltas gets a verdict and, unless it is `ok`, a suggestion to train their concepts
/// jointly.
#[utoipa::path(post, path = "/v1/merges/check", tag = "merges", request_body = StartMerge,
    responses(
        (status = 200, body = MergeCheckBody, description = "OK"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`pack_missing`, `captions_not_encoded`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "As for `POST /v1/merges`, and `merge_refused`"),
    ))]
pub(crate) async fn check_merge(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<StartMerge>,
) -> Result<axum::Json<MergeCheckBody>, ApiError> {
    Ok(axum::Json(app.check_merge(&caller, body.into()).await?.into()))
}

impl From<MergeCheck> for MergeCheckBody {
    fn from(check: MergeCheck) -> Self {
        let deltas = check.deltas.iter().zip(&check.report.deltas);
        let deltas = deltas.map(|(used, error)| CheckedDeltaBody {
            delta: used.delta_id,
            strength: used.strength,
            constraint_error: *error,
        });
        Self {
            object: "merge_check",
            verdict: check.report.verdict(),
            constraint_error: check.report.constraint_error,
            drift: check.report.drift,
            condition: check.report.condition,
            deltas: deltas.collect(),
            pairs: check.pairs.into_iter().map(CheckedPairBody::from).collect(),
            recipe: check.recipe,
        }
    }
}

impl From<CheckedPair> for CheckedPairBody {
    fn from(CheckedPair { deltas, report, train_jointly }: CheckedPair) -> Self {
        Self {
            deltas,
            overlap: report.overlap,
            constraint_error: report.constraint_error,
            constraint_error_alone: report.constraint_error_alone,
            drift: report.drift,
            verdict: report.verdict(),
            suggestion: train_jointly.map(SuggestionBody::from),
        }
    }
}

impl From<Vec<(ConceptId, Handle)>> for SuggestionBody {
    fn from(concepts: Vec<(ConceptId, Handle)>) -> Self {
        let (concepts, handles): (Vec<ConceptId>, Vec<String>) =
            concepts.into_iter().map(|(id, handle)| (id, format!("`{handle}`"))).unzip();
        let detail = format!(
            "{} ask for different things in the same words: train them jointly, and each learns what the other is not",
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
