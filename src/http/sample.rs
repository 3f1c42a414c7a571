//! Samples: from a prompt to pictures.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;

use super::binding::{ConceptUse, bind, tokens_of};
use super::body::{ListBody, ListQuery};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::image::ImageBody;
use super::job::{JobBody, cancel_job, enqueue, find_job, started};
use super::manifest::task_again;
use super::merge::options::MergeOptions;
use super::training::random_seed;
use super::upload::{ChosenInit, choose_init};
use crate::app::App;
use crate::db;
use crate::domain::code::Code;
use crate::domain::id::{DeltaId, ImageId, SampleId};
use crate::domain::image::{Image, ImageSource};
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::job::{Job, JobKind, JobStatus, Task};
use crate::domain::manifest::Manifest;
use crate::domain::merge::MergeRecipe;
use crate::domain::model_info::ModelInfo;
use crate::domain::sample::{
    DeltaUse, Determinism, SampleSettings, SampleTask, SchedulerName, decimal,
};

/// Pictures to draw.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartSample {
    /// What to draw. A concept's modifier token brings the concept in: `photo of a <rex> dog on the beach`.
    #[schema(examples("photo of a <rex> dog on the beach"))]
    prompt: Option<String>,
    /// What to keep away from.
    negative_prompt: Option<String>,
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
    /// The size of `init_image` if there is one, else the base model's own.
    width: Option<usize>,
    height: Option<usize>,
    /// An image to start from instead of noise alone: any id of the catalog, such as that of `POST /v1/images`. It is
    /// scaled to cover the size and cut in its middle.
    init_image: Option<ImageId>,
    /// How much of it is drawn anew, above 0 up to 1: the share of the steps that are taken.
    #[schema(exclusive_minimum = 0, maximum = 1, default = 0.8)]
    noise_strength: Option<f64>,
    /// Makes a small preview of each picture every so many steps; events tell of them.
    #[schema(minimum = 1)]
    preview_every: Option<usize>,
    /// `strict` by default; `fast` may be quicker on a GPU, and differ in the last bits.
    determinism: Option<Determinism>,
    /// Concepts that no token in the prompt names, and deltas or strengths other than the usual.
    #[schema(max_items = 8)]
    concepts: Option<Vec<ConceptUse>>,
    /// How several deltas are merged on the way.
    merge: Option<MergeOptions>,
    /// A picture's manifest, to draw that one picture again. It stands alone: with any other field it would be another
    /// picture.
    from_manifest: Option<Manifest>,
}

impl StartSample {
    /// Names the fields that stand beside a manifest.
    fn refuse_beside_manifest(&self) -> Result<(), Invalid> {
        let mut checks = Checks::default();
        for (pointer, given) in [
            ("/prompt", self.prompt.is_some()),
            ("/negative_prompt", self.negative_prompt.is_some()),
            ("/n", self.n.is_some()),
            ("/first_index", self.first_index.is_some()),
            ("/seed", self.seed.is_some()),
            ("/num_inference_steps", self.num_inference_steps.is_some()),
            ("/guidance_scale", self.guidance_scale.is_some()),
            ("/unconditional_strength", self.unconditional_strength.is_some()),
            ("/guidance_interval", self.guidance_interval.is_some()),
            ("/scheduler", self.scheduler.is_some()),
            ("/eta", self.eta.is_some()),
            ("/width", self.width.is_some()),
            ("/height", self.height.is_some()),
            ("/init_image", self.init_image.is_some()),
            ("/noise_strength", self.noise_strength.is_some()),
            ("/preview_every", self.preview_every.is_some()),
            ("/determinism", self.determinism.is_some()),
            ("/concepts", self.concepts.is_some()),
            ("/merge", self.merge.is_some()),
        ] {
            checks.require(!given, pointer, Code::ConflictingFields, || {
                "from_manifest stands alone: leave this field out, or change it in the manifest"
                    .to_owned()
            });
        }
        checks.finish()
    }

    /// What the request asks for, its names resolved and its defaults filled in.
    async fn into_task(
        self,
        db: &mut PgConnection,
        model: &ModelInfo,
    ) -> Result<SampleTask, ApiError> {
        let init = choose_init(db, model, self.init_image, self.noise_strength).await?;
        let settings = self.settings(model, init.as_ref());
        settings.check(model)?;
        let init = init.map(|chosen| chosen.init);
        if let Some(init) = &init {
            init.check(&settings)?;
        }
        let prompt = self.prompt.ok_or_else(|| {
            FieldError::new(
                "/prompt",
                Code::MissingField,
                "a sample needs a prompt or from_manifest",
            )
        })?;
        let negative_prompt = self.negative_prompt.unwrap_or_default();
        let mut tokens = tokens_of(&prompt, "/prompt")?;
        let of_negative = tokens_of(&negative_prompt, "/negative_prompt")?;
        if !of_negative.is_empty() && settings.unconditional_strength <= 0.0 {
            let detail = "at 0 the negative prompt sees no concept, and this one names some";
            let pointer = "/unconditional_strength";
            return Err(FieldError::new(pointer, Code::ConflictingFields, detail).into());
        }
        tokens.extend(of_negative);

        let concepts = self.concepts.unwrap_or_default();
        let binding = bind(db, model, &concepts, &tokens).await?;
        let mut checks = Checks::default();
        for (text, pointer) in [(&prompt, "/prompt"), (&negative_prompt, "/negative_prompt")] {
            if let Err(error) = model.check_prompt(text, &binding.modifier_tokens(), pointer) {
                checks.push(error);
            }
        }
        checks.finish()?;
        Ok(SampleTask {
            base_digest: model.digest.clone(),
            prompt,
            negative_prompt,
            settings,
            merge: merge_recipe(self.merge, binding.deltas.len(), model)?,
            deltas: binding.deltas,
            init,
        })
    }

    fn settings(&self, model: &ModelInfo, init: Option<&ChosenInit>) -> SampleSettings {
        let defaults = &model.sampling;
        let native = (model.native_size, model.native_size);
        let (width, height) = init.map_or(native, |chosen| (chosen.width, chosen.height));
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
            width: self.width.unwrap_or(width),
            height: self.height.unwrap_or(height),
            determinism: self.determinism.unwrap_or_default(),
            preview_every: self.preview_every,
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
    /// What the pictures start from instead of noise alone.
    init_image: Option<ImageId>,
    noise_strength: Option<f64>,
    /// What the prompt's and the list's concepts meant when the sample was asked for.
    deltas: Vec<DeltaUseBody>,
    /// How they are merged, if they are several, with every default filled in.
    merge: Option<MergeRecipe>,
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
            init_image: task.init.as_ref().map(|init| init.image_id),
            noise_strength: task.init.map(|init| init.noise_strength),
            merge: (task.deltas.len() > 1).then_some(task.merge),
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
/// Numbers are read to six decimals. A picture's bytes depend on the request alone, `n` and `determinism` left aside:
/// picture `i` is the same drawn alone, by `first_index`. `from_manifest` draws a picture again from what it carries.
#[utoipa::path(post, path = "/v1/samples", tag = "samples", request_body = StartSample,
    params(("prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds for the end")),
    responses(
        (status = 201, body = SampleBody, headers(("location" = String)),
            description = "With `Prefer: wait=N`: it has ended within N seconds, at most 55"),
        (status = 202, body = SampleBody, headers(("location" = String)),
            description = "Queued"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_concept`, `concept_not_trained`, `prompt_too_long`, `base_model_mismatch`, \
                `out_of_range`, `not_a_multiple`, `unknown_field`, `conflicting_fields`, `unknown_image`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`queue_full`: as many wait as may"),
    ))]
pub(crate) async fn start_sample(
    State(app): State<App>,
    headers: HeaderMap,
    Json(mut body): Json<StartSample>,
) -> Result<impl IntoResponse, ApiError> {
    let mut tx = app.db.begin().await?;
    let task = match body.from_manifest.take() {
        Some(manifest) => {
            body.refuse_beside_manifest()?;
            task_again(&mut tx, &app.model, manifest).await?
        }
        None => body.into_task(&mut tx, &app.model).await?,
    };
    let job_id = enqueue(&app, &mut tx, &Task::Sample(task)).await?;
    tx.commit().await?;

    let (status, place, job) = started(&app, job_id, JobKind::Sample, &headers).await?;
    let images = images_of(&app, &job).await?;
    Ok((status, place, axum::Json(SampleBody::new(job, &images)?)))
}

/// The pictures of a sample; before it has succeeded there are none to ask for.
async fn images_of(app: &App, job: &Job) -> sqlx::Result<Vec<Image>> {
    match job.status() {
        JobStatus::Succeeded => db::image::of_samples(&app.db, &[job.job_id.into()]).await,
        JobStatus::Queued
        | JobStatus::Running
        | JobStatus::Canceling
        | JobStatus::Failed
        | JobStatus::Canceled => Ok(Vec::new()),
    }
}

/// How so many deltas are merged: by the options, which mean nothing for one.
fn merge_recipe(
    options: Option<MergeOptions>,
    deltas: usize,
    model: &ModelInfo,
) -> Result<MergeRecipe, Invalid> {
    if deltas > 1 {
        return options.unwrap_or_default().recipe(model, "/merge");
    }
    match options {
        None => Ok(MergeRecipe::default()),
        Some(_) => {
            let detail =
                "the request names less than two deltas, so nothing is merged: leave this out";
            Err(FieldError::new("/merge", Code::NotApplicable, detail).into())
        }
    }
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
    let images = images_of(&app, &job).await?;
    Ok(axum::Json(SampleBody::new(job, &images)?))
}

/// Lists samples, newest first.
#[utoipa::path(get, path = "/v1/samples", tag = "samples", params(ListQuery),
    responses((status = 200, body = ListBody<SampleBody>)))]
pub(crate) async fn list_samples(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<ListBody<SampleBody>>, ApiError> {
    let jobs = db::job::list(&app.db, JobKind::Sample, query.page()?).await?;
    let ids: Vec<SampleId> = jobs.iter().map(|job| job.job_id.into()).collect();
    let images = db::image::of_samples(&app.db, &ids).await?;
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
    let images = images_of(&app, &job).await?;
    Ok((status, axum::Json(SampleBody::new(job, &images)?)))
}
