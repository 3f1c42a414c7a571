//! Merges: several deltas become one.

pub(crate) mod check;
mod report;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::report::MergeReportBody;
use super::body::{JobQuery, List, ListBody};
use super::dry_run::{self, DryRunOrJob};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::job::{self, JobBody, JobResource, WaitQuery};
use super::precondition::IfMatch;
use super::sample::DeltaUseBody;
use crate::app::job::Merge;
use crate::app::merge::NewMerge;
use crate::app::queue::JobOptions;
use crate::app::{App, Caller, Precondition};
use crate::domain::delta_use::ConceptUse;
use crate::domain::id::{ConceptId, DeltaId, MergeId};
use crate::domain::job::schedule::{Priority, Schedule};
use crate::domain::merge::options::{MergeMethod, MergeOptions};
use crate::domain::merge::{MergeRecipe, MergeTask, Protected};
use crate::domain::record::{ExternalId, Labels, Metadata};

/// A merge to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartMerge {
    /// What to merge: 2 to 8 different deltas.
    #[schema(min_items = 2, max_items = 8)]
    concepts: Vec<ConceptUse>,
    /// How firmly each concept is preserved. Defaults to `soft`, with which contradicting concepts each give way a little.
    method: Option<MergeMethod>,
    /// Weight μ of the soft constraints, from 0.1 to 100 000 000. Defaults to 1000. A larger weight preserves each concept
    /// more closely and changes other prompts more.
    #[schema(minimum = 0.1, maximum = 100_000_000, default = 1000.0)]
    constraint_weight: Option<f64>,
    /// 20 to 2000 ordinary prompts whose images should not change. They should cover the whole range of prompts. Defaults to
    /// the captions of the base model's class images.
    #[schema(min_items = 20, max_items = 2000)]
    captions: Option<Vec<String>>,
    /// Which texts keep exactly the keys and values of the base model. Defaults to all kinds.
    protect: Option<Vec<Protected>>,
    /// Whether to answer only what the request would make: 200 with the resolved request, an estimate of its time and every
    /// warning. Nothing is made. Defaults to false.
    dry_run: Option<bool>,
    /// How urgent it is. Within one kind of job, all jobs of a higher priority run first. Defaults to `normal`.
    #[schema(default = "normal")]
    priority: Option<Priority>,
    /// The job fails with `deadline_exceeded` if no worker has started it within so many seconds, 1 to 31536000 (a year).
    #[schema(minimum = 1, maximum = 31_536_000)]
    start_within_seconds: Option<u64>,
    /// The job fails with `deadline_exceeded` if it has not ended within so many seconds, 1 to 31536000 (a year).
    #[schema(minimum = 1, maximum = 31_536_000)]
    finish_within_seconds: Option<u64>,
    /// Texts of your own, to be returned with the job and never interpreted: at most 16, with keys of up to 64 and values of up to
    /// 512 characters. Defaults to none.
    metadata: Option<Metadata>,
    /// Your own id for the job, of up to 255 characters. A second job of this kind with the same one is refused with
    /// `external_id_taken`, which names the first. Defaults to none.
    external_id: Option<ExternalId>,
}

impl StartMerge {
    fn options(&self) -> JobOptions {
        let metadata = self.metadata.clone().unwrap_or_default();
        let labels = Labels { metadata, external_id: self.external_id.clone() };
        JobOptions { schedule: self.schedule(), labels }
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            priority: self.priority.unwrap_or_default(),
            start_within_seconds: self.start_within_seconds,
            finish_within_seconds: self.finish_within_seconds,
        }
    }
}

impl From<StartMerge> for NewMerge {
    fn from(body: StartMerge) -> Self {
        let StartMerge { concepts, method, constraint_weight, captions, protect, .. } = body;
        let options = MergeOptions { method, constraint_weight, captions, protect };
        Self { concepts, options }
    }
}

/// A merge and its state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MergeBody {
    id: MergeId,
    #[schema(value_type = String, examples("merge"))]
    object: &'static str,
    #[serde(flatten)]
    resolved: ResolvedMerge,
    /// The resulting delta, once the merge has succeeded.
    delta: Option<DeltaId>,
    /// How well the merge preserves what it merges, once it has succeeded. Null for merges of version 0.1.0.
    report: Option<MergeReportBody>,
    #[serde(flatten)]
    job: JobBody,
}

/// What a merge does, with every default filled in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResolvedMerge {
    /// The deltas that are merged.
    deltas: Vec<DeltaUseBody>,
    /// The concepts that the resulting delta contains.
    concepts: Vec<ConceptId>,
    /// The complete recipe, with every default filled in.
    #[serde(flatten)]
    recipe: MergeRecipe,
}

impl JobResource for MergeTask {
    type Body = MergeBody;
    type Resolved = ResolvedMerge;

    fn body(Merge { job, outcome, .. }: Merge) -> MergeBody {
        MergeBody {
            id: job.job_id.into(),
            object: "merge",
            delta: outcome,
            job: JobBody::from(&job),
            report: job
                .merge_report
                .as_ref()
                .map(|report| MergeReportBody::new(report, &job.task.deltas)),
            resolved: job.task.into(),
        }
    }

    fn resolved(task: Self) -> ResolvedMerge {
        task.into()
    }
}

impl From<MergeTask> for ResolvedMerge {
    fn from(task: MergeTask) -> Self {
        Self {
            deltas: task.deltas.into_iter().map(DeltaUseBody::from).collect(),
            concepts: task.concepts,
            recipe: task.recipe,
        }
    }
}

/// Merges deltas into a new one that contains all their concepts.
///
/// The merge preserves what each delta does to its own captions and otherwise stays as close to the base model as possible.
/// It is solved in closed form, without training. The concepts keep their current deltas: to use the merged one, name it in
/// a sample's `concepts`. A sample that names several concepts merges them by itself, without a merge beforehand.
#[utoipa::path(post, path = "/v1/merges", tag = "merges", request_body = StartMerge,
    params(("prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds, at most 55, for the job to end")),
    responses(
        (status = 200, body = DryRunOrJob<MergeBody, ResolvedMerge>, headers(("location" = String)),
            description = "The request was a dry run, and nothing has been made. Or it asked to wait with `Prefer: wait=N`, and the merge has failed or was canceled: see `error`"),
        (status = 201, body = MergeBody, headers(("location" = String)),
            description = "The request asked to wait with `Prefer: wait=N`, and the merge has succeeded"),
        (status = 202, body = MergeBody, headers(("location" = String)),
            description = "The merge is queued"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_concept`, `concept_not_trained`, `base_model_mismatch`, `too_few_deltas`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`queue_full`, `database_unavailable`"),
    ))]
pub(crate) async fn start_merge(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(body): Json<StartMerge>,
) -> Result<Response, ApiError> {
    let options = body.options();
    if body.dry_run.unwrap_or_default() {
        let dry_run = app.try_merge(&caller, body.into(), options).await?;
        return Ok(dry_run::answer(dry_run));
    }
    let merge = app.start_merge(&caller, body.into(), options).await?;
    Ok(job::started(&app, &caller, &headers, merge).await?.into_response())
}

/// Returns a merge and its state.
#[utoipa::path(get, path = "/v1/merges/{merge_id}", tag = "merges", params(("merge_id" = MergeId, Path), WaitQuery),
    responses(
        (status = 200, body = MergeBody, description = "OK. It has `Retry-After` until the job has ended"),
        (status = 304, description = "`If-None-Match` has the current `ETag`"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_merge(
    State(app): State<App>,
    caller: Caller,
    Path(merge_id): Path<MergeId>,
    Query(query): Query<WaitQuery>,
) -> Result<(HeaderMap, axum::Json<MergeBody>), ApiError> {
    job::get::<MergeTask>(&app, &caller, merge_id, &query).await
}

/// Lists merges, newest first.
#[utoipa::path(get, path = "/v1/merges", tag = "merges", params(JobQuery),
    responses(
        (status = 200, body = ListBody<MergeBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such `concept`"),
    ))]
pub(crate) async fn list_merges(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<JobQuery>,
) -> Result<List<MergeBody>, ApiError> {
    job::list::<MergeTask>(&app, &caller, &query).await
}

/// Cancels a merge, as for a training.
#[utoipa::path(post, path = "/v1/merges/{merge_id}/cancel", tag = "merges", params(("merge_id" = MergeId, Path), IfMatch),
    responses(
        (status = 200, body = MergeBody, description = "The job has ended"),
        (status = 202, body = MergeBody, description = "The job stops at its next step"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn cancel_merge(
    State(app): State<App>,
    caller: Caller,
    Path(merge_id): Path<MergeId>,
    precondition: Precondition,
) -> Result<(StatusCode, axum::Json<MergeBody>), ApiError> {
    job::cancel::<MergeTask>(&app, &caller, merge_id, &precondition).await
}
