//! Merge checks: whether deltas go together, answered at once.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::StartMerge;
use super::report::{CheckedDeltaBody, CheckedPairBody, RecommendedBody, checked_deltas};
use crate::app::merge::check::MergeCheck;
use crate::app::{App, Caller};
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
    /// How to get all the concepts into one image.
    recommended: RecommendedBody,
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

/// Checks how well deltas go together, without merging them or generating an image.
///
/// The response is computed at once from what trainings have stored beside their deltas, without a device and without a
/// job. At strengths other than 1, the check uses the embedding rows of modifier tokens as they were learned, while the
/// merge itself scales them. Each pair of deltas gets a verdict, the recommended way to get its concepts into one image and,
/// unless the verdict is `ok`, a suggestion to train them jointly.
#[utoipa::path(post, path = "/v1/merges/check", tag = "merges", request_body = StartMerge,
    responses(
        (status = 200, body = MergeCheckBody, description = "OK"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`pack_missing`, `captions_not_encoded`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "As for `POST /v1/merges`, and `merge_refused`"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
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
        Self {
            object: "merge_check",
            verdict: check.report.verdict(),
            recommended: check.recommended.into(),
            constraint_error: check.report.constraint_error,
            drift: check.report.drift,
            condition: check.report.condition,
            deltas: checked_deltas(&check.report, &check.deltas),
            pairs: check.pairs.into_iter().map(CheckedPairBody::from).collect(),
            recipe: check.recipe,
        }
    }
}
