//! Trainings: from photos to a delta.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, PartialSchema, ToSchema};

use super::binding::{all_or_errors, concept_named, named_concepts};
use super::body::{ListBody, ListQuery};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::job::{JobBody, cancel_job, enqueue, find_job, started};
use crate::app::App;
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::{Concept, ConceptRef, ConceptWords, Handle, ModifierToken};
use crate::domain::id::{ConceptId, DeltaId, JobId, TrainingId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::invalid::{Checks, FieldError};
use crate::domain::job::{Job, JobKind, Metric, Task};
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::MAX_SEED;
use crate::domain::training::{
    ClassImages, MAX_CONCEPTS, MIN_IMAGES, Preset, TaskConcept, TaskImage, TrainingRecipe,
    TrainingTask,
};

/// A training to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartTraining {
    /// Ids or handles. Several are learnt jointly and share the delta.
    #[schema(value_type = Vec<String>, min_items = 1, max_items = 8)]
    concepts: Vec<ConceptRef>,
    /// Where the recipe starts from.
    #[serde(default)]
    #[schema(default = "default")]
    preset: Preset,
    /// Fields of the recipe that shall differ from the preset.
    #[serde(default)]
    #[schema(schema_with = some_of_recipe)]
    recipe: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    #[schema(default = "auto")]
    class_images: ClassImages,
    /// The server draws one if left out. The same seed, photos and recipe give the same delta.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
}

/// The schema of a recipe of which every field can be left out.
fn some_of_recipe() -> RefOr<Schema> {
    let mut schema = TrainingRecipe::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.required.clear();
        object.description =
            Some("Fields of the recipe that shall differ from the preset.".to_owned());
    }
    schema
}

/// A training and where it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrainingBody {
    id: TrainingId,
    #[schema(value_type = String, examples("training"))]
    object: &'static str,
    concepts: Vec<TrainedConcept>,
    preset: Preset,
    /// Every number of the training, with all defaults filled in.
    recipe: TrainingRecipe,
    class_images: ClassImages,
    seed: u64,
    /// The result, once the training has succeeded.
    delta: Option<DeltaId>,
    #[serde(flatten)]
    job: JobBody,
}

/// A concept as it was when its training was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TrainedConcept {
    id: ConceptId,
    handle: Handle,
    #[serde(flatten)]
    words: ConceptWords,
    /// Photos that it learns from.
    image_count: usize,
}

impl TrainingBody {
    fn new(job: Job, deltas: &[(JobId, DeltaId)]) -> Result<Self, ApiError> {
        let body = JobBody::from(&job);
        let Task::Training(task) = job.task else { return Err(ApiError::wrong_task(job.job_id)) };
        let concepts = task.concepts.into_iter().map(|concept| TrainedConcept {
            id: concept.concept_id,
            handle: concept.handle,
            words: concept.words,
            image_count: concept.images.len(),
        });
        Ok(Self {
            id: job.job_id.into(),
            object: "training",
            concepts: concepts.collect(),
            preset: task.preset,
            recipe: task.recipe,
            class_images: task.class_images,
            seed: task.seed,
            delta: deltas
                .iter()
                .find(|(made_by, _)| *made_by == job.job_id)
                .map(|(_, delta)| *delta),
            job: body,
        })
    }
}

/// Starts a training on the photos that its concepts have now.
///
/// Answers as soon as the job is queued; its progress is at `GET /v1/trainings/{training_id}` and at `…/events`.
/// When it succeeds, its delta becomes the current one of each of its concepts.
#[utoipa::path(post, path = "/v1/trainings", tag = "trainings", request_body = StartTraining,
    params(("prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds for the end")),
    responses(
        (status = 201, body = TrainingBody, headers(("location" = String)),
            description = "With `Prefer: wait=N`: it has ended within N seconds, at most 55"),
        (status = 202, body = TrainingBody, headers(("location" = String)),
            description = "Queued"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`dataset_too_small`, `unknown_concept`, `unknown_field`, `out_of_range`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`queue_full`: as many wait as may"),
    ))]
pub(crate) async fn start_training(
    State(app): State<App>,
    headers: HeaderMap,
    Json(body): Json<StartTraining>,
) -> Result<impl IntoResponse, ApiError> {
    let recipe = resolve_recipe(&body, &app.model)?;
    let mut checks = Checks::default();
    checks.in_range(body.concepts.len(), 1..=MAX_CONCEPTS, "/concepts");
    checks.in_range(body.seed.unwrap_or_default(), 0..=MAX_SEED, "/seed");
    checks.finish()?;

    let mut tx = app.db.begin().await?;
    let concepts = named_concepts(&mut tx, body.concepts.iter()).await?;
    let chosen = choose_concepts(&body.concepts, &concepts)?;
    let ids: Vec<ConceptId> = chosen.iter().map(|concept| concept.concept_id).collect();
    let images = db::image::of_concepts(&mut *tx, &ids).await?;
    let task = TrainingTask {
        base_digest: app.model.digest.clone(),
        concepts: with_images(&chosen, &images)?,
        preset: body.preset,
        class_images: if recipe.class_batch_size == 0 {
            ClassImages::None
        } else {
            body.class_images
        },
        recipe,
        seed: body.seed.unwrap_or_else(random_seed),
    };
    check_captions(&task, &app.model)?;
    let job_id = enqueue(&app, &mut tx, &Task::Training(task)).await?;
    tx.commit().await?;

    let (status, place, job) = started(&app, job_id, JobKind::Training, &headers).await?;
    let deltas = db::delta::of_jobs(&app.db, &[job_id]).await?;
    Ok((status, place, axum::Json(TrainingBody::new(job, &deltas)?)))
}

/// The preset for so many concepts, with the request's changes.
fn resolve_recipe(body: &StartTraining, model: &ModelInfo) -> Result<TrainingRecipe, ApiError> {
    let preset = match body.preset {
        Preset::Default => model.recipe.clone(),
        Preset::Paper => TrainingRecipe::paper(),
    };
    let mut recipe = preset.for_concepts(body.concepts.len()).with_overrides(&body.recipe)?;
    // What is not used shall not be in the resolved recipe either.
    if body.class_images == ClassImages::None || !model.has_class_images {
        recipe.class_batch_size = 0;
    }
    Ok(recipe)
}

/// A seed that every JSON client can hold.
pub(crate) fn random_seed() -> u64 {
    // The random half of a UUID.
    uuid::Uuid::new_v4().as_u64_pair().1 & MAX_SEED
}

fn choose_concepts<'a>(
    names: &[ConceptRef],
    concepts: &'a [Concept],
) -> Result<Vec<&'a Concept>, ApiError> {
    let chosen = names
        .iter()
        .enumerate()
        .map(|(index, name)| concept_named(name, concepts, &format!("/concepts/{index}")));
    let chosen = all_or_errors(chosen)?;
    for (index, concept) in chosen.iter().enumerate() {
        if chosen[..index].iter().any(|other| other.concept_id == concept.concept_id) {
            let detail = format!("concept `{}` is named twice", concept.handle);
            return Err(FieldError::new(
                format!("/concepts/{index}"),
                Code::AmbiguousConcept,
                detail,
            )
            .into());
        }
    }
    Ok(chosen)
}

/// Gives each concept its photos; refuses fewer than the paper's four.
fn with_images(concepts: &[&Concept], images: &[Image]) -> Result<Vec<TaskConcept>, ApiError> {
    let concepts = concepts.iter().enumerate().map(|(index, concept)| {
        let is_its = |image: &&Image| {
            matches!(&image.source, ImageSource::Photo { concept_id, .. } if *concept_id == concept.concept_id)
        };
        let images: Vec<TaskImage> = images
            .iter()
            .filter(is_its)
            .map(|image| TaskImage { image_id: image.image_id, storage_key: image.storage_key.clone() })
            .collect();
        if images.len() < MIN_IMAGES {
            let detail = format!(
                "concept `{}` has {} photos and needs {MIN_IMAGES}: add more with POST /v1/concepts/{}/images",
                concept.handle,
                images.len(),
                concept.concept_id
            );
            return Err(FieldError::new(format!("/concepts/{index}"), Code::DatasetTooSmall, detail));
        }
        Ok(TaskConcept {
            concept_id: concept.concept_id,
            handle: concept.handle.clone(),
            words: concept.words.clone(),
            images,
        })
    });
    Ok(all_or_errors(concepts)?)
}

/// Refuses templates whose captions would be cut, for any of the concepts.
fn check_captions(task: &TrainingTask, model: &ModelInfo) -> Result<(), ApiError> {
    let mut checks = Checks::default();
    let tokens: Vec<ModifierToken> =
        task.concepts.iter().filter_map(|concept| concept.words.modifier_token.clone()).collect();
    for concept in &task.concepts {
        let subject = concept.words.in_prompt();
        for (index, template) in task.recipe.instance_templates.iter().enumerate() {
            let caption = template.replace("{}", &subject);
            let pointer = format!("/recipe/instance_templates/{index}");
            if let Err(error) = model.check_prompt(&caption, &tokens, &pointer) {
                checks.push(error);
            }
        }
    }
    Ok(checks.finish()?)
}

/// Returns a training and where it stands.
#[utoipa::path(get, path = "/v1/trainings/{training_id}", tag = "trainings",
    params(("training_id" = TrainingId, Path)),
    responses(
        (status = 200, body = TrainingBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get_training(
    State(app): State<App>,
    Path(training_id): Path<TrainingId>,
) -> Result<axum::Json<TrainingBody>, ApiError> {
    let job = find_job(&app, training_id.into(), JobKind::Training).await?;
    let deltas = db::delta::of_jobs(&app.db, &[job.job_id]).await?;
    Ok(axum::Json(TrainingBody::new(job, &deltas)?))
}

/// Lists trainings, newest first.
#[utoipa::path(get, path = "/v1/trainings", tag = "trainings", params(ListQuery),
    responses((status = 200, body = ListBody<TrainingBody>)))]
pub(crate) async fn list_trainings(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<ListBody<TrainingBody>>, ApiError> {
    let jobs = db::job::list(&app.db, JobKind::Training, query.page()?).await?;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.job_id).collect();
    let deltas = db::delta::of_jobs(&app.db, &ids).await?;
    let list =
        ListBody::new(jobs, &query, |job| job.job_id.0, |job| TrainingBody::new(job, &deltas));
    Ok(axum::Json(list.transpose()?))
}

/// Stops a training.
///
/// One that waits is canceled at once (200), one that runs at its next step (202, status `canceling`). A training that
/// has ended stays as it is (200).
#[utoipa::path(post, path = "/v1/trainings/{training_id}/cancel", tag = "trainings",
    params(("training_id" = TrainingId, Path)),
    responses(
        (status = 200, body = TrainingBody),
        (status = 202, body = TrainingBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn cancel_training(
    State(app): State<App>,
    Path(training_id): Path<TrainingId>,
) -> Result<impl IntoResponse, ApiError> {
    let (status, job) = cancel_job(&app, training_id.into(), JobKind::Training).await?;
    let deltas = db::delta::of_jobs(&app.db, &[job.job_id]).await?;
    Ok((status, axum::Json(TrainingBody::new(job, &deltas)?)))
}

/// Which stretch of a loss curve to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MetricsQuery {
    /// Only steps after this one.
    #[serde(default)]
    #[param(minimum = 0, default = 0)]
    since_step: i32,
    /// At most so many, 1 to 10000.
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
    /// One point per step, in order; steps count from 1.
    data: Vec<Metric>,
}

/// Returns the loss curve of a training, as far as it is.
#[utoipa::path(get, path = "/v1/trainings/{training_id}/metrics", tag = "trainings",
    params(("training_id" = TrainingId, Path), MetricsQuery),
    responses(
        (status = 200, body = MetricsBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get_training_metrics(
    State(app): State<App>,
    Path(training_id): Path<TrainingId>,
    Query(query): Query<MetricsQuery>,
) -> Result<axum::Json<MetricsBody>, ApiError> {
    let mut checks = Checks::default();
    checks.in_range(query.since_step, 0..=i32::MAX, "since_step");
    checks.in_range(query.limit, 1..=10_000, "limit");
    checks.finish()?;
    let job = find_job(&app, training_id.into(), JobKind::Training).await?;
    let data = db::metric::after(&app.db, job.job_id, query.since_step, query.limit).await?;
    Ok(axum::Json(MetricsBody { object: "metrics", data }))
}
