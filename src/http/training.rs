//! Trainings: from photos to a delta.

mod metrics;
mod start;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use self::start::StartTraining;
use super::body::{JobQuery, List, ListBody};
use super::dry_run::{self, DryRunOrJob};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::job::{self, JobBody, JobResource, WaitQuery};
use super::precondition::IfMatch;
use super::regularization::RegularizationBody;
use super::training_preview::PreviewsBody;
use crate::app::job::Training;
use crate::app::{App, Caller, Precondition};
use crate::domain::concept::{ConceptWords, Handle};
use crate::domain::id::{ConceptId, DeltaId, TrainingId};
use crate::domain::promotion::Promote;
use crate::domain::training::task::{TaskConcept, TrainingTask};
use crate::domain::training::{ClassImages, Preset, TrainingRecipe};
use crate::domain::training_report::TrainingReport;

pub(crate) use self::metrics::{__path_get_training_metrics, get_training_metrics};

/// A training and its state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrainingBody {
    id: TrainingId,
    #[schema(value_type = String, examples("training"))]
    object: &'static str,
    #[serde(flatten)]
    resolved: ResolvedTraining,
    /// The resulting delta, once the training has succeeded.
    delta: Option<DeltaId>,
    /// What the training has changed, once it has succeeded. Null for trainings of version 0.1.0.
    report: Option<TrainingReport>,
    /// The step of the checkpoint that the last attempt went on from. Null if it started from the beginning.
    resumed_from_step: Option<i32>,
    /// Why the last attempt started from the beginning although there were checkpoints: they were damaged, or of other settings
    /// or another version of the engine, so that the result would have been another one.
    started_over: Option<String>,
    /// The step of the newest checkpoint. Another worker goes on from there if this one is lost. Null once the training has
    /// ended.
    checkpoint_step: Option<i32>,
    #[serde(flatten)]
    job: JobBody,
}

/// What a training does, with every default filled in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResolvedTraining {
    /// The concepts that the training teaches.
    concepts: Vec<TrainedConcept>,
    preset: Preset,
    /// The complete recipe, with every default filled in.
    recipe: TrainingRecipe,
    /// Which class images the training uses.
    regularization: RegularizationBody,
    /// `none` without class images, otherwise `auto`. `regularization` says more.
    class_images: ClassImages,
    /// The delta that the training went on from. Null for the base model.
    start_from: Option<DeltaId>,
    /// The random seed.
    seed: u64,
    /// Whether the delta becomes the current one of the concepts that the training teaches.
    promote: Promote,
    /// What the training draws of itself while it runs. Null if nothing was asked for.
    previews: Option<PreviewsBody>,
}

/// A concept as it was when its training was requested.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrainedConcept {
    id: ConceptId,
    handle: Handle,
    #[serde(flatten)]
    words: ConceptWords,
    /// The number of photos that the concept is learned from.
    image_count: usize,
}

impl From<TaskConcept> for TrainedConcept {
    fn from(concept: TaskConcept) -> Self {
        Self {
            id: concept.concept_id,
            handle: concept.handle,
            words: concept.words,
            image_count: concept.images.len(),
        }
    }
}

impl JobResource for TrainingTask {
    type Body = TrainingBody;
    type Resolved = ResolvedTraining;

    fn body(Training { job, outcome, resumption }: Training) -> TrainingBody {
        TrainingBody {
            id: job.job_id.into(),
            object: "training",
            delta: outcome.delta,
            report: outcome.report,
            resumed_from_step: resumption.resumed_from_step,
            started_over: resumption.started_over,
            checkpoint_step: resumption.checkpoint_step,
            job: JobBody::from(&job),
            resolved: job.task.into(),
        }
    }

    fn resolved(task: Self) -> ResolvedTraining {
        task.into()
    }
}

impl From<TrainingTask> for ResolvedTraining {
    fn from(task: TrainingTask) -> Self {
        Self {
            concepts: task.concepts.into_iter().map(TrainedConcept::from).collect(),
            preset: task.preset,
            recipe: task.recipe,
            class_images: task.regularization.as_class_images(),
            regularization: task.regularization.into(),
            start_from: task.start_from.map(|start| start.delta.delta_id),
            seed: task.seed,
            promote: task.promote,
            previews: task.previews.map(PreviewsBody::from),
        }
    }
}

/// Starts a training on the photos that its concepts have now.
///
/// The response is sent as soon as the job is queued. Follow its progress at `GET /v1/trainings/{training_id}` or
/// `GET /v1/trainings/{training_id}/events`. When the training succeeds, its delta becomes the current delta of those of
/// its concepts that have none yet; `promote` says otherwise.
#[utoipa::path(post, path = "/v1/trainings", tag = "trainings", request_body = StartTraining,
    params(("prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds, at most 55, for the job to end")),
    responses(
        (status = 200, body = DryRunOrJob<TrainingBody, ResolvedTraining>, headers(("location" = String)),
            description = "The request was a dry run, and nothing has been made. Or it asked to wait with `Prefer: wait=N`, and the training has failed or was canceled: see `error`"),
        (status = 201, body = TrainingBody, headers(("location" = String)),
            description = "The request asked to wait with `Prefer: wait=N`, and the training has succeeded"),
        (status = 202, body = TrainingBody, headers(("location" = String)),
            description = "The training is queued"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`dataset_too_small`, `unknown_concept`, `unknown_image_set`, `unknown_delta`, `nothing_retrieved`, `out_of_range`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`queue_full`, `image_set_not_indexed`, `database_unavailable`"),
    ))]
pub(crate) async fn start_training(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(body): Json<StartTraining>,
) -> Result<Response, ApiError> {
    let options = body.options();
    if body.dry_run.unwrap_or_default() {
        let dry_run = app.try_training(&caller, body.into(), options).await?;
        return Ok(dry_run::answer(dry_run));
    }
    let training = app.start_training(&caller, body.into(), options).await?;
    Ok(job::started(&app, &caller, &headers, training).await?.into_response())
}

/// Returns a training and its state.
#[utoipa::path(get, path = "/v1/trainings/{training_id}", tag = "trainings",
    params(("training_id" = TrainingId, Path), WaitQuery),
    responses(
        (status = 200, body = TrainingBody, description = "OK. It has `Retry-After` until the job has ended"),
        (status = 304, description = "`If-None-Match` has the current `ETag`"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_training(
    State(app): State<App>,
    caller: Caller,
    Path(training_id): Path<TrainingId>,
    Query(query): Query<WaitQuery>,
) -> Result<(HeaderMap, axum::Json<TrainingBody>), ApiError> {
    job::get::<TrainingTask>(&app, &caller, training_id, &query).await
}

/// Lists trainings, newest first.
#[utoipa::path(get, path = "/v1/trainings", tag = "trainings", params(JobQuery),
    responses(
        (status = 200, body = ListBody<TrainingBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such `concept`"),
    ))]
pub(crate) async fn list_trainings(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<JobQuery>,
) -> Result<List<TrainingBody>, ApiError> {
    job::list::<TrainingTask>(&app, &caller, &query).await
}

/// Cancels a training.
///
/// A queued training is canceled at once, and the response is 200. A running one stops at its next step: the response is
/// 202, with the status `canceling`. A training that has ended stays as it is, and the response is 200.
#[utoipa::path(post, path = "/v1/trainings/{training_id}/cancel", tag = "trainings",
    params(("training_id" = TrainingId, Path), IfMatch),
    responses(
        (status = 200, body = TrainingBody, description = "The job has ended"),
        (status = 202, body = TrainingBody, description = "The job stops at its next step"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn cancel_training(
    State(app): State<App>,
    caller: Caller,
    Path(training_id): Path<TrainingId>,
    precondition: Precondition,
) -> Result<(StatusCode, axum::Json<TrainingBody>), ApiError> {
    job::cancel::<TrainingTask>(&app, &caller, training_id, &precondition).await
}
