//! Trainings: from photos to a delta.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{Deprecated, ObjectBuilder, RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::body::{JobQuery, List, ListBody};
use super::dry_run::{self, DryRunOrJob};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::job::{self, JobBody, JobResource, WaitQuery};
use super::precondition::IfMatch;
use super::regularization::{RegularizationBody, RegularizationForm};
use super::training_preview::{PreviewsBody, PreviewsForm};
use crate::app::job::Training;
use crate::app::queue::JobOptions;
use crate::app::regularization::{NewRegularization, RegularizationChoice};
use crate::app::training::{NewPreviews, NewTraining};
use crate::app::{App, Caller, Precondition};
use crate::domain::concept::{ConceptRef, ConceptWords, Handle};
use crate::domain::id::{ConceptId, DeltaId, TrainingId};
use crate::domain::invalid::Checks;
use crate::domain::job::Metric;
use crate::domain::job::schedule::{Priority, Schedule};
use crate::domain::promotion::Promote;
use crate::domain::record::{ExternalId, Labels, Metadata};
use crate::domain::training::task::{TaskConcept, TrainingTask};
use crate::domain::training::{ClassImages, FIELD_ALIASES, Preset, TrainingRecipe};
use crate::domain::training_report::TrainingReport;

/// A training to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartTraining {
    /// Ids or handles of 1 to 8 concepts. Several concepts are learned jointly and share the resulting delta.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 8)]
    concepts: Vec<ConceptRef>,
    /// The recipe to start from. Defaults to `default`.
    #[serde(default)]
    #[schema(default = "default")]
    preset: Preset,
    /// Fields of the recipe that differ from the preset.
    #[serde(default)]
    #[schema(schema_with = partial_recipe)]
    recipe: serde_json::Map<String, serde_json::Value>,
    /// Which class images to use. Defaults to those of the base model's class images whose caption contains the class noun, or all
    /// if none does: `{"source": "set", "select": "class_noun"}`.
    #[schema(value_type = Option<RegularizationForm>)]
    regularization: Option<RegularizationForm>,
    /// An earlier name for two choices of `regularization`: `auto` is its default, `none` is `{"source": "none"}`.
    #[schema(value_type = Option<ClassImages>)]
    class_images: Option<ClassImages>,
    /// The delta to go on from instead of the base model, for example to teach a second concept on top of a first. The result
    /// contains that delta's concepts too, with the embedding rows of those that the training does not teach as they were. It
    /// can become the current delta only of the concepts that the training teaches.
    start_from: Option<DeltaId>,
    /// Random seed, from 0 to 2⁵³ − 1. The server chooses one if omitted. The same seed, photos and recipe give the same
    /// delta.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
    /// Whether the resulting delta becomes the current delta of the concepts that the training teaches: `auto` if a concept has
    /// none yet, `always`, or `never`. Defaults to `auto`. Any delta can be promoted later.
    #[schema(value_type = Option<Promote>)]
    promote: Option<Promote>,
    /// Draw the same prompts every so many steps, to see what has been learned so far: see
    /// `GET /v1/trainings/{training_id}/previews`. The delta does not depend on it. Nothing is drawn if omitted.
    #[schema(value_type = Option<PreviewsForm>)]
    previews: Option<PreviewsForm>,
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

impl StartTraining {
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

/// The schema of a recipe whose fields are all optional.
fn partial_recipe() -> RefOr<Schema> {
    let mut schema = TrainingRecipe::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.required.clear();
        for (alias, field) in FIELD_ALIASES {
            let text = format!("Another name of `{field}`. Give one of the two.");
            if let Some(RefOr::T(Schema::Object(field))) = object.properties.get(field) {
                let field = ObjectBuilder::from(field.clone());
                let field = field.description(Some(text)).deprecated(Some(Deprecated::True));
                object.properties.insert(alias.to_owned(), field.build().into());
            }
        }
        object.description = Some("Fields of the recipe that differ from the preset.".to_owned());
    }
    schema
}

impl From<StartTraining> for NewTraining {
    fn from(body: StartTraining) -> Self {
        let StartTraining {
            concepts,
            preset,
            recipe,
            regularization,
            class_images,
            start_from,
            seed,
            promote,
            previews,
            ..
        } = body;
        let previews = previews.map(NewPreviews::from);
        let promote = promote.unwrap_or_default();
        let regularization = regularization.map(RegularizationChoice::from);
        let regularization = NewRegularization { class_images, regularization };
        Self { concepts, preset, recipe, regularization, start_from, seed, promote, previews }
    }
}

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

/// Which part of a loss curve to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MetricsQuery {
    /// Return only steps after this one. Defaults to 0, which returns all.
    #[serde(default)]
    #[param(minimum = 0, default = 0)]
    since_step: i32,
    /// The maximum number of points to return, from 1 to 10000. Defaults to 10000.
    #[serde(default = "default_metrics")]
    #[param(minimum = 1, maximum = 10000, default = 10000)]
    limit: i64,
}

fn default_metrics() -> i64 {
    10_000
}

/// A loss curve.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MetricsBody {
    #[schema(value_type = String, examples("metrics"))]
    object: &'static str,
    /// One point per step, in order. Steps count from 1.
    data: Vec<Metric>,
}

/// Returns the loss curve of a training up to now.
#[utoipa::path(get, path = "/v1/trainings/{training_id}/metrics", tag = "trainings",
    params(("training_id" = TrainingId, Path), MetricsQuery),
    responses(
        (status = 200, body = MetricsBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_training_metrics(
    State(app): State<App>,
    caller: Caller,
    Path(training_id): Path<TrainingId>,
    Query(query): Query<MetricsQuery>,
) -> Result<axum::Json<MetricsBody>, ApiError> {
    let mut checks = Checks::default();
    checks.in_range(query.since_step, 0..=i32::MAX, "since_step");
    checks.in_range(query.limit, 1..=10_000, "limit");
    checks.finish()?;
    let MetricsQuery { since_step, limit } = query;
    let data = app.training_metrics(&caller, training_id, since_step, limit).await?;
    Ok(axum::Json(MetricsBody { object: "metrics", data }))
}
