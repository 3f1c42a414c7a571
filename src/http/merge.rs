//! Merges: several deltas become one.

pub(crate) mod check;
pub(crate) mod options;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::binding::{Binding, ConceptUse, bind};
use super::body::{ListBody, ListQuery};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::job::{JobBody, cancel_job, enqueue, find_job, started};
use super::sample::DeltaUseBody;
use crate::app::App;
use crate::db;
use crate::domain::code::Code;
use crate::domain::id::{ConceptId, DeltaId, JobId, MergeId};
use crate::domain::invalid::FieldError;
use crate::domain::job::{Job, JobKind, Task};
use crate::domain::merge::{MergeRecipe, MergeTask, Protected};
use crate::domain::model_info::ModelInfo;
use options::{MergeMethod, MergeOptions};

/// A merge to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartMerge {
    /// What to merge: at least two different deltas.
    #[schema(min_items = 2, max_items = 8)]
    concepts: Vec<ConceptUse>,
    /// `soft` unless said otherwise: concepts that contradict each other each give way a little.
    method: Option<MergeMethod>,
    /// μ of the soft constraints: the more, the nearer to each concept as it was learnt, and the more other prompts
    /// change.
    #[schema(minimum = 0.1, maximum = 100_000_000, default = 1000.0)]
    constraint_weight: Option<f64>,
    /// Ordinary prompts that shall stay as they are, enough of them to span the text space; those of the base model's
    /// class images if left out.
    #[schema(min_items = 20, max_items = 2000)]
    captions: Option<Vec<String>>,
    /// What shall stay exactly as the base model has it; everything that can if left out.
    protect: Option<Vec<Protected>>,
}

/// A merge that is asked for, resolved.
pub(crate) struct Bound {
    pub(crate) binding: Binding,
    pub(crate) recipe: MergeRecipe,
}

impl StartMerge {
    /// Resolves the names and fills in the defaults.
    pub(crate) async fn bind(
        self,
        db: &mut PgConnection,
        model: &ModelInfo,
    ) -> Result<Bound, ApiError> {
        let Self { concepts, method, constraint_weight, captions, protect } = self;
        let options = MergeOptions { method, constraint_weight, captions, protect };
        let recipe = options.recipe(model, "")?;
        let binding = bind(db, model, &concepts, &[]).await?;
        if binding.deltas.len() < 2 {
            let detail = "a merge needs at least two different deltas";
            return Err(FieldError::new("/concepts", Code::TooFewDeltas, detail).into());
        }
        Ok(Bound { binding, recipe })
    }
}

/// A merge and where it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MergeBody {
    id: MergeId,
    #[schema(value_type = String, examples("merge"))]
    object: &'static str,
    /// What is merged.
    deltas: Vec<DeltaUseBody>,
    /// The concepts that the result contains.
    concepts: Vec<ConceptId>,
    /// How they are merged, with every default filled in.
    #[serde(flatten)]
    recipe: MergeRecipe,
    /// The result, once the merge has succeeded.
    delta: Option<DeltaId>,
    #[serde(flatten)]
    job: JobBody,
}

impl MergeBody {
    fn new(job: Job, deltas: &[(JobId, DeltaId)]) -> Result<Self, ApiError> {
        let body = JobBody::from(&job);
        let Task::Merge(task) = job.task else { return Err(ApiError::wrong_task(job.job_id)) };
        Ok(Self {
            id: job.job_id.into(),
            object: "merge",
            deltas: task.deltas.into_iter().map(DeltaUseBody::from).collect(),
            concepts: task.concepts,
            recipe: task.recipe,
            delta: deltas
                .iter()
                .find(|(made_by, _)| *made_by == job.job_id)
                .map(|(_, delta)| *delta),
            job: body,
        })
    }
}

/// Merges deltas into a new one that answers to the words of all their concepts.
///
/// The merge keeps what each delta does to its own captions and otherwise stays as close to the base model as it can
/// (closed form, no training). The concepts keep their current deltas; name the merged one in a sample's `concepts`.
/// A sample that names several concepts merges them on the way, without this.
#[utoipa::path(post, path = "/v1/merges", tag = "merges", request_body = StartMerge,
    params(("prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds for the end")),
    responses(
        (status = 201, body = MergeBody, headers(("location" = String)),
            description = "With `Prefer: wait=N`: it has ended within N seconds, at most 55"),
        (status = 202, body = MergeBody, headers(("location" = String)),
            description = "Queued"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_concept`, `concept_not_trained`, `base_model_mismatch`, `too_few_deltas`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`queue_full`: as many wait as may"),
    ))]
pub(crate) async fn start_merge(
    State(app): State<App>,
    headers: HeaderMap,
    Json(body): Json<StartMerge>,
) -> Result<impl IntoResponse, ApiError> {
    let mut tx = app.db.begin().await?;
    let Bound { binding, recipe } = body.bind(&mut tx, &app.model).await?;
    let task = MergeTask {
        base_digest: app.model.digest.clone(),
        deltas: binding.deltas,
        concepts: binding.concepts.iter().map(|concept| concept.concept_id).collect(),
        recipe,
    };
    let job_id = enqueue(&app, &mut tx, &Task::Merge(task)).await?;
    tx.commit().await?;

    let (status, place, job) = started(&app, job_id, JobKind::Merge, &headers).await?;
    let deltas = db::delta::of_jobs(&app.db, &[job_id]).await?;
    Ok((status, place, axum::Json(MergeBody::new(job, &deltas)?)))
}

/// Returns a merge and where it stands.
#[utoipa::path(get, path = "/v1/merges/{merge_id}", tag = "merges", params(("merge_id" = MergeId, Path)),
    responses(
        (status = 200, body = MergeBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get_merge(
    State(app): State<App>,
    Path(merge_id): Path<MergeId>,
) -> Result<axum::Json<MergeBody>, ApiError> {
    let job = find_job(&app, merge_id.into(), JobKind::Merge).await?;
    let deltas = db::delta::of_jobs(&app.db, &[job.job_id]).await?;
    Ok(axum::Json(MergeBody::new(job, &deltas)?))
}

/// Lists merges, newest first.
#[utoipa::path(get, path = "/v1/merges", tag = "merges", params(ListQuery),
    responses((status = 200, body = ListBody<MergeBody>)))]
pub(crate) async fn list_merges(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<ListBody<MergeBody>>, ApiError> {
    let jobs = db::job::list(&app.db, JobKind::Merge, query.page()?).await?;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.job_id).collect();
    let deltas = db::delta::of_jobs(&app.db, &ids).await?;
    let list = ListBody::new(jobs, &query, |job| job.job_id.0, |job| MergeBody::new(job, &deltas));
    Ok(axum::Json(list.transpose()?))
}

/// Stops a merge; one that has ended stays as it is.
#[utoipa::path(post, path = "/v1/merges/{merge_id}/cancel", tag = "merges", params(("merge_id" = MergeId, Path)),
    responses(
        (status = 200, body = MergeBody),
        (status = 202, body = MergeBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn cancel_merge(
    State(app): State<App>,
    Path(merge_id): Path<MergeId>,
) -> Result<impl IntoResponse, ApiError> {
    let (status, job) = cancel_job(&app, merge_id.into(), JobKind::Merge).await?;
    let deltas = db::delta::of_jobs(&app.db, &[job.job_id]).await?;
    Ok((status, axum::Json(MergeBody::new(job, &deltas)?)))
}
