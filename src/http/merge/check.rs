//! Merge checks: whether deltas go together, answered at once.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Bound, StartMerge};
use crate::app::App;
use crate::domain::code::Code;
use crate::domain::delta::DeltaConcept;
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::invalid::FieldError;
use crate::domain::merge::{MergeRecipe, MergeReport, PairReport, Verdict};
use crate::domain::training::MAX_CONCEPTS;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::Json;
use crate::merge_desk::DeskError;

/// How deltas go together.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MergeCheckBody {
    #[schema(value_type = String, examples("merge_check"))]
    object: &'static str,
    /// The worst of what is said about the pairs and about all together.
    verdict: Verdict,
    /// How far the concepts are from what was learnt, over their own words: 0 is as alone, 1 is gone.
    constraint_error: f64,
    /// How far other captions' keys and values move, as a share of their length.
    drift: f64,
    /// Condition number of the linear system; null if it is beyond all numbers.
    condition: f64,
    deltas: Vec<CheckedDeltaBody>,
    /// Every two deltas, merged without the others.
    pairs: Vec<CheckedPairBody>,
    /// How they would be merged, with every default filled in.
    #[serde(flatten)]
    recipe: MergeRecipe,
}

/// One delta among the others.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckedDeltaBody {
    delta: DeltaId,
    strength: f64,
    constraint_error: f64,
}

/// Two deltas.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckedPairBody {
    #[schema(min_items = 2, max_items = 2)]
    deltas: [DeltaId; 2],
    /// The largest cosine between the text features whose keys and values they set; 1 is the same.
    overlap: f64,
    constraint_error: f64,
    /// The constraint error if each of the two were merged with nothing.
    constraint_error_alone: f64,
    drift: f64,
    verdict: Verdict,
    /// What to do instead, unless the verdict is `ok`.
    suggestion: Option<SuggestionBody>,
}

/// A request that would serve better.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuggestionBody {
    detail: String,
    #[schema(value_type = String, examples("POST"))]
    method: &'static str,
    #[schema(value_type = String, examples("/v1/trainings"))]
    path: &'static str,
    body: SuggestedTrainingBody,
}

/// The body of a joint training.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuggestedTrainingBody {
    concepts: Vec<ConceptId>,
}

/// Says how deltas go together, without merging or drawing anything.
///
/// The answer is computed at once from what trainings have stored beside their deltas: no device is needed and no job
/// is queued. At strengths other than 1 it takes a modifier token's row as it was learnt, where the merge itself moves
/// it. Each pair of deltas gets a verdict of its own, and where it is not `ok` a training that would teach their concepts
/// jointly.
#[utoipa::path(post, path = "/v1/merges/check", tag = "merges", request_body = StartMerge,
    responses(
        (status = 200, body = MergeCheckBody),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`pack_missing`, `captions_not_encoded`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "as `POST /v1/merges`, and `merge_refused`"),
    ))]
pub(crate) async fn check_merge(
    State(app): State<App>,
    Json(body): Json<StartMerge>,
) -> Result<axum::Json<MergeCheckBody>, ApiError> {
    let mut db = app.db.acquire().await?;
    let Bound { binding, recipe } = body.bind(&mut db, &app.model).await?;
    drop(db);
    let report = app.merge_desk.check(&binding.deltas, &recipe).await.map_err(refusal)?;
    let ids: Vec<DeltaId> = binding.deltas.iter().map(|used| used.delta_id).collect();
    let pair = |pair: &PairReport| CheckedPairBody::new(pair, &ids, &binding.concepts);
    let pairs: Vec<CheckedPairBody> = report.pairs.iter().map(pair).collect();
    Ok(axum::Json(MergeCheckBody {
        object: "merge_check",
        verdict: verdict_of(&report),
        constraint_error: report.constraint_error,
        drift: report.drift,
        condition: report.condition,
        deltas: binding
            .deltas
            .iter()
            .zip(&report.deltas)
            .map(|(used, error)| CheckedDeltaBody {
                delta: used.delta_id,
                strength: used.strength,
                constraint_error: *error,
            })
            .collect(),
        pairs,
        recipe,
    }))
}

fn verdict_of_pair(pair: &PairReport) -> Verdict {
    Verdict::of_pair(pair.constraint_error, pair.constraint_error_alone, pair.drift)
}

fn verdict_of(report: &MergeReport) -> Verdict {
    let pairs = report.pairs.iter().map(verdict_of_pair);
    pairs.fold(Verdict::of_drift(report.drift), Verdict::max)
}

impl CheckedPairBody {
    fn new(pair: &PairReport, deltas: &[DeltaId], concepts: &[DeltaConcept]) -> Self {
        let ids = [deltas[pair.pair.0], deltas[pair.pair.1]];
        let verdict = verdict_of_pair(pair);
        Self {
            deltas: ids,
            overlap: pair.overlap,
            constraint_error: pair.constraint_error,
            constraint_error_alone: pair.constraint_error_alone,
            drift: pair.drift,
            verdict,
            suggestion: if verdict == Verdict::Ok { None } else { suggestion(ids, concepts) },
        }
    }
}

/// A joint training of what the two deltas teach; `None` if that is too much for one training.
fn suggestion(deltas: [DeltaId; 2], concepts: &[DeltaConcept]) -> Option<SuggestionBody> {
    let taught = concepts.iter().filter(|concept| deltas.contains(&concept.delta_id));
    let (handles, concepts): (Vec<String>, Vec<ConceptId>) =
        taught.map(|concept| (format!("`{}`", concept.handle), concept.concept_id)).unzip();
    let detail = format!(
        "{} ask for different things in the same words: train them jointly, and each learns what the other is not",
        handles.join(" and ")
    );
    (concepts.len() <= MAX_CONCEPTS).then_some(SuggestionBody {
        detail,
        method: "POST",
        path: "/v1/trainings",
        body: SuggestedTrainingBody { concepts },
    })
}

fn refusal(error: DeskError) -> ApiError {
    match error {
        DeskError::PackMissing(delta) => ApiError::Conflict(FieldError::new(
            "/concepts",
            Code::PackMissing,
            format!(
                "`{delta}` was stored by an earlier version, which left no merge pack: a worker for its base model builds it \
                 when it starts, so start one, or try again in a moment"
            ),
        )),
        DeskError::CaptionsNotEncoded => ApiError::Conflict(FieldError::new(
            "/captions",
            Code::CaptionsNotEncoded,
            "these captions have not been encoded yet: merge once over them with POST /v1/merges; those of the base model's \
             class images a worker encodes when it starts",
        )),
        DeskError::Refused(reason) => {
            FieldError::new("/concepts", Code::MergeRefused, reason).into()
        }
        error @ (DeskError::Storage(_)
        | DeskError::Damaged { .. }
        | DeskError::Engine(_)
        | DeskError::Panicked) => error.into(),
    }
}
