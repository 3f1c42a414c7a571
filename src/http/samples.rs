//! Samples: from a prompt to pictures.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::binding::{ConceptUse, bind, tokens_of};
use super::body::{ListBody, ListQuery};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::images::ImageBody;
use super::jobs::{JobBody, cancel_job, enqueue, find_job, started};
use super::trainings::random_seed;
use crate::db;
use crate::domain::id::{DeltaId, SampleId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::invalid::Checks;
use crate::domain::job::{Job, JobKind, Task};
use crate::domain::merge::MergeRecipe;
use crate::domain::model_card::ModelCard;
use crate::domain::sample::{
    DeltaUse, Determinism, SampleSettings, SampleTask, SchedulerName, decimal,
};

/// Pictures to draw.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartSample {
    /// What to draw. A concept's modifier token brings the concept in: `photo of a <rex> dog on the beach`.
    #[schema(examples("photo of a <rex> dog on the beach"))]
    prompt: String,
    /// What to keep away from.
    #[serde(default)]
    negative_prompt: String,
    /// Number of pictures, 1 to 16.
    #[schema(minimum = 1, maximum = 16, default = 1)]
    n: Option<usize>,
    /// The index of the first picture: `first_index` 5 and `n` 1 draw the sixth picture of this seed, alone.
    #[schema(minimum = 0, maximum = 999999, default = 0)]
    first_index: Option<usize>,
    /// The server draws one if left out. The same request with the same seed gives the same pictures.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
    /// Denoising steps; the base model's default if left out, like the fields below.
    #[schema(minimum = 1)]
    num_inference_steps: Option<usize>,
    /// Weight of the prompt against the negative prompt; 1 and below draws without guidance.
    #[schema(minimum = 0, maximum = 100)]
    guidance_scale: Option<f64>,
    /// How much of the concepts the negative prompt sees: 1 all, as in the paper, 0 the base model alone.
    #[schema(minimum = 0, maximum = 1, default = 1.0)]
    unconditional_strength: Option<f64>,
    /// Where guidance is applied on the way from noise, 0, to picture, 1, as `[start, end]`. The way is measured in
    /// noise levels, `1 − timestep / number of trained timesteps`, so it means the same for every scheduler and number of
    /// steps. A step outside costs half.
    #[schema(min_items = 2, max_items = 2, examples(json!([0.2, 0.8])))]
    guidance_interval: Option<[f64; 2]>,
    scheduler: Option<SchedulerName>,
    /// DDIM's share of fresh noise per step.
    #[schema(minimum = 0, maximum = 1)]
    eta: Option<f64>,
    width: Option<usize>,
    height: Option<usize>,
    /// `strict` by default; `fast` may be quicker on a GPU, and differ in the last bits.
    determinism: Option<Determinism>,
    /// Concepts that no token in the prompt names, and deltas or strengths other than the usual.
    #[serde(default)]
    #[schema(max_items = 8)]
    concepts: Vec<ConceptUse>,
}

impl StartSample {
    fn settings(&self, model: &ModelCard) -> SampleSettings {
        let defaults = &model.sampling;
        SampleSettings {
            n: self.n.unwrap_or(1),
            first_index: self.first_index.unwrap_or(0),
            seed: self.seed.unwrap_or_else(random_seed),
            num_inference_steps: self.num_inference_steps.unwrap_or(defaults.num_inference_steps),
            guidance_scale: decimal(self.guidance_scale.unwrap_or(defaults.guidance_scale)),
            unconditional_strength: decimal(self.unconditional_strength.unwrap_or(1.0)),
            guidance_interval: self.guidance_interval.unwrap_or([0.0, 1.0]).map(decimal),
            scheduler: self.scheduler.unwrap_or(defaults.scheduler),
            eta: decimal(self.eta.unwrap_or(defaults.eta)),
            width: self.width.unwrap_or(model.native_size),
            height: self.height.unwrap_or(model.native_size),
            determinism: self.determinism.unwrap_or_default(),
            preview_every: None,
        }
    }
}

/// A sample and where it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SampleBody {
    id: SampleId,
    #[schema(value_type = String, examples("sample"))]
    object: &'static str,
    prompt: String,
    negative_prompt: String,
    /// How it is drawn, with every default filled in.
    #[serde(flatten)]
    settings: SampleSettings,
    /// What the prompt's and the list's concepts meant when the sample was asked for.
    deltas: Vec<DeltaUseBody>,
    /// The pictures, once the sample has succeeded.
    images: Vec<ImageBody>,
    #[serde(flatten)]
    job: JobBody,
}

/// A delta that takes part.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeltaUseBody {
    delta: DeltaId,
    strength: f64,
}

impl From<DeltaUse> for DeltaUseBody {
    fn from(used: DeltaUse) -> Self {
        Self { delta: used.delta_id, strength: used.strength }
    }
}

impl SampleBody {
    fn new(job: Job, images: &[Image]) -> Result<Self, ApiError> {
        let body = JobBody::from(&job);
        let Task::Sample(task) = job.task else { return Err(ApiError::wrong_task(job.job_id)) };
        let id = SampleId::from(job.job_id);
        let is_its = |image: &&Image| matches!(image.source, ImageSource::Sample { sample_id, .. } if sample_id == id);
        Ok(Self {
            id,
            object: "sample",
            prompt: task.prompt,
            negative_prompt: task.negative_prompt,
            settings: task.settings,
            deltas: task.deltas.into_iter().map(DeltaUseBody::from).collect(),
            images: images.iter().filter(is_its).cloned().map(ImageBody::from).collect(),
            job: body,
        })
    }
}

/// Starts drawing pictures.
///
/// Answers as soon as the job is queued; the pictures are at `GET /v1/samples/{sample_id}` when it has succeeded.
/// Concepts come in by their modifier tokens in the prompt, or by the `concepts` list. Several are merged on the way.
#[utoipa::path(post, path = "/v1/samples", tag = "samples", request_body = StartSample,
    params(("prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds for the end")),
    responses(
        (status = 201, body = SampleBody, headers(("location" = String)),
            description = "With `Prefer: wait=N`: it has ended within N seconds, at most 55"),
        (status = 202, body = SampleBody, headers(("location" = String)),
            description = "Queued"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_concept`, `concept_not_trained`, `prompt_too_long`, `base_model_mismatch`, \
                `out_of_range`, `not_a_multiple`, `unknown_field`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`queue_full`: as many wait as may"),
    ))]
pub(crate) async fn start_sample(
    State(app): State<App>,
    headers: HeaderMap,
    Json(body): Json<StartSample>,
) -> Result<impl IntoResponse, ApiError> {
    let settings = body.settings(&app.model);
    settings.check(&app.model)?;
    let mut tokens = tokens_of(&body.prompt, "/prompt")?;
    tokens.extend(tokens_of(&body.negative_prompt, "/negative_prompt")?);

    let mut tx = app.db.begin().await?;
    let binding = bind(&mut tx, &app.model, &body.concepts, &tokens).await?;
    let mut checks = Checks::default();
    for (text, pointer) in [(&body.prompt, "/prompt"), (&body.negative_prompt, "/negative_prompt")]
    {
        if let Err(error) = app.model.check_prompt(text, &binding.modifier_tokens(), pointer) {
            checks.push(error);
        }
    }
    checks.finish()?;
    let task = SampleTask {
        base_digest: app.model.digest.clone(),
        prompt: body.prompt,
        negative_prompt: body.negative_prompt,
        settings,
        deltas: binding.deltas,
        init: None,
        merge: MergeRecipe::default(),
    };
    let job_id = enqueue(&app, &mut tx, &Task::Sample(task)).await?;
    tx.commit().await?;

    let (status, place, job) = started(&app, job_id, JobKind::Sample, &headers).await?;
    let images = db::images::of_samples(&app.db, &[job_id.into()]).await?;
    Ok((status, place, axum::Json(SampleBody::new(job, &images)?)))
}

/// Returns a sample, where it stands, and its pictures.
#[utoipa::path(get, path = "/v1/samples/{sample_id}", tag = "samples", params(("sample_id" = SampleId, Path)),
    responses(
        (status = 200, body = SampleBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get_sample(
    State(app): State<App>,
    Path(sample_id): Path<SampleId>,
) -> Result<axum::Json<SampleBody>, ApiError> {
    let job = find_job(&app, sample_id.into(), JobKind::Sample).await?;
    let images = db::images::of_samples(&app.db, &[sample_id]).await?;
    Ok(axum::Json(SampleBody::new(job, &images)?))
}

/// Lists samples, newest first.
#[utoipa::path(get, path = "/v1/samples", tag = "samples", params(ListQuery),
    responses((status = 200, body = ListBody<SampleBody>)))]
pub(crate) async fn list_samples(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<ListBody<SampleBody>>, ApiError> {
    let jobs = db::jobs::list(&app.db, JobKind::Sample, query.page()?).await?;
    let ids: Vec<SampleId> = jobs.iter().map(|job| job.job_id.into()).collect();
    let images = db::images::of_samples(&app.db, &ids).await?;
    let list = ListBody::new(jobs, &query, |job| job.job_id.0, |job| SampleBody::new(job, &images));
    Ok(axum::Json(list.transpose()?))
}

/// Stops a sample; one that has ended stays as it is.
#[utoipa::path(post, path = "/v1/samples/{sample_id}/cancel", tag = "samples",
    params(("sample_id" = SampleId, Path)),
    responses(
        (status = 200, body = SampleBody),
        (status = 202, body = SampleBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn cancel_sample(
    State(app): State<App>,
    Path(sample_id): Path<SampleId>,
) -> Result<impl IntoResponse, ApiError> {
    let (status, job) = cancel_job(&app, sample_id.into(), JobKind::Sample).await?;
    let images = db::images::of_samples(&app.db, &[sample_id]).await?;
    Ok((status, axum::Json(SampleBody::new(job, &images)?)))
}
