//! Samples: from a prompt to images.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{List, ListBody, SampleQuery};
use super::dry_run::{self, DryRunOrJob};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::image::ImageBody;
use super::job::{self, JobBody, JobResource, WaitQuery};
use super::precondition::IfMatch;
use crate::app::job::{Sample, WantedJobs};
use crate::app::queue::JobOptions;
use crate::app::sample::{NewSample, PromptedSample, SampleOptions};
use crate::app::{App, Caller, Precondition};
use crate::domain::code::Code;
use crate::domain::composition::Composition;
use crate::domain::composition::options::CompositionOptions;
use crate::domain::delta_use::ConceptUse;
use crate::domain::id::{DeltaId, ImageId, SampleId};
use crate::domain::invalid::{Checks, Invalid};
use crate::domain::job::schedule::{Priority, Schedule};
use crate::domain::manifest::Manifest;
use crate::domain::merge::MergeRecipe;
use crate::domain::merge::options::MergeOptions;
use crate::domain::record::{ExternalId, Labels, Metadata};
use crate::domain::sample::{
    DeltaUse, Determinism, MAX_SEED, SampleSettings, SampleTask, SchedulerName,
};

/// Images to generate.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartSample {
    /// What to generate. A modifier token in the prompt brings in its concept: `photo of a <rex> dog on the beach`. Required
    /// unless `from_manifest` is given.
    #[schema(examples("photo of a <rex> dog on the beach"))]
    prompt: Option<String>,
    /// What the images should not show. Defaults to the empty prompt.
    negative_prompt: Option<String>,
    /// The number of images, from 1 to 16. Defaults to 1.
    #[schema(minimum = 1, maximum = 16, default = 1)]
    n: Option<usize>,
    /// The index of the first image, from 0 to 999999. Defaults to 0. With `first_index` 5 and `n` 1, only the sixth image of
    /// this seed is generated.
    #[schema(minimum = 0, maximum = 999999, default = 0)]
    first_index: Option<usize>,
    /// Random seed, from 0 to 2⁵³ − 1. The server chooses one if omitted. The same request with the same seed gives the same
    /// images.
    #[schema(maximum = 9007199254740991_u64)]
    seed: Option<u64>,
    /// The number of denoising steps. Defaults to that of the base model.
    #[schema(minimum = 1)]
    num_inference_steps: Option<usize>,
    /// Weight of the prompt against the negative prompt, from 0 to 100. At 1 and below there is no guidance. Defaults to that
    /// of the base model.
    #[schema(minimum = 0, maximum = 100)]
    guidance_scale: Option<f64>,
    /// How much of the concepts the negative prompt sees, from 0 (the base model only) to 1 (all, as in the paper). Defaults
    /// to 1.
    #[schema(minimum = 0, maximum = 1, default = 1.0)]
    unconditional_strength: Option<f64>,
    /// The part of the denoising in which guidance is applied, as `[start, end]` from 0 (noise) to 1 (image). Defaults to
    /// `[0, 1]`. It is measured in noise levels, `1 − timestep / number of trained timesteps`, so it means the same for every
    /// scheduler and number of steps. A step without guidance takes half the time.
    #[schema(min_items = 2, max_items = 2, examples(json!([0.2, 0.8])))]
    guidance_interval: Option<[f64; 2]>,
    /// The scheduler. Defaults to that of the base model.
    scheduler: Option<SchedulerName>,
    /// The share of fresh noise in each DDIM step, from 0 to 1. Other schedulers ignore it. Defaults to that of the base
    /// model.
    #[schema(minimum = 0, maximum = 1)]
    eta: Option<f64>,
    /// Width in pixels, a multiple of the base model's `size_multiple`. Defaults to that of `init_image`, or else to the base
    /// model's `native_size`.
    width: Option<usize>,
    /// Height in pixels, a multiple of the base model's `size_multiple`. Defaults to that of `init_image`, or else to the
    /// base model's `native_size`.
    height: Option<usize>,
    /// The id of an image to start from instead of pure noise: a photo, a generated image, or one uploaded with
    /// `POST /v1/images`. It is scaled to cover the size and cropped at the center.
    init_image: Option<ImageId>,
    /// How much noise is added to `init_image`, above 0 and up to 1: the fraction of the steps that are taken. Defaults to
    /// 0.8.
    #[schema(exclusive_minimum = 0, maximum = 1, default = 0.8)]
    noise_strength: Option<f64>,
    /// Make a small preview of each image every this many steps. Events announce the previews. There are none if omitted.
    #[schema(minimum = 1)]
    preview_every: Option<usize>,
    /// What is promised about the bytes of the images. Defaults to `strict`. `fast` can be quicker on a GPU and differ in the
    /// last bits.
    determinism: Option<Determinism>,
    /// Concepts that no token in the prompt names, and deltas or strengths that differ from the default. At most 8.
    #[schema(max_items = 8)]
    concepts: Option<Vec<ConceptUse>>,
    /// How several deltas are merged, if they are: then `composition.method` defaults to `merge`. Not allowed if fewer than two
    /// take part.
    merge: Option<MergeOptions>,
    /// How several concepts come into one picture. Defaults to `regional` for two or more deltas: the base model lays the
    /// picture out with plain nouns, then each concept's region is generated again with that concept alone.
    composition: Option<CompositionOptions>,
    /// The manifest of a generated image, to generate that image again. Beside it, only `priority`, the deadlines, `metadata` and
    /// `external_id` may be given.
    from_manifest: Option<Manifest>,
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

impl StartSample {
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

impl TryFrom<StartSample> for NewSample {
    type Error = Invalid;

    fn try_from(mut body: StartSample) -> Result<Self, Invalid> {
        match body.from_manifest.take() {
            Some(manifest) => {
                body.refuse_beside_manifest()?;
                Ok(Self::Manifest(Box::new(manifest)))
            }
            None => Ok(Self::Prompt(Box::new(body.into()))),
        }
    }
}

impl From<StartSample> for PromptedSample {
    fn from(body: StartSample) -> Self {
        Self {
            prompt: body.prompt,
            negative_prompt: body.negative_prompt,
            options: SampleOptions {
                n: body.n,
                first_index: body.first_index,
                seed: body.seed,
                num_inference_steps: body.num_inference_steps,
                guidance_scale: body.guidance_scale,
                unconditional_strength: body.unconditional_strength,
                guidance_interval: body.guidance_interval,
                scheduler: body.scheduler,
                eta: body.eta,
                width: body.width,
                height: body.height,
                preview_every: body.preview_every,
                determinism: body.determinism,
            },
            init_image: body.init_image,
            noise_strength: body.noise_strength,
            concepts: body.concepts.unwrap_or_default(),
            merge: body.merge,
            composition: body.composition,
        }
    }
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
            ("/composition", self.composition.is_some()),
        ] {
            checks.require(!given, pointer, Code::ConflictingFields, || {
                "from_manifest stands alone: leave this field out, or change it in the manifest"
                    .to_owned()
            });
        }
        checks.finish()
    }
}

/// A sample and its state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SampleBody {
    id: SampleId,
    #[schema(value_type = String, examples("sample"))]
    object: &'static str,
    #[serde(flatten)]
    resolved: ResolvedSample,
    /// The images, once the sample has succeeded.
    images: Vec<ImageBody>,
    #[serde(flatten)]
    job: JobBody,
}

/// What a sample generates, with every default filled in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResolvedSample {
    /// What is generated.
    prompt: String,
    /// What the images should not show.
    negative_prompt: String,
    /// The complete settings, with every default filled in.
    #[serde(flatten)]
    settings: SampleSettings,
    /// The image that the sample starts from instead of pure noise.
    init_image: Option<ImageId>,
    /// How much noise is added to `init_image`.
    noise_strength: Option<f64>,
    /// The deltas that the request's concepts resolved to when the sample was requested.
    deltas: Vec<DeltaUseBody>,
    /// How the deltas are merged, with every default filled in. Null if they are not.
    merge: Option<MergeRecipe>,
    /// How the concepts come into one picture, with every default filled in. Null if fewer than two deltas are merged.
    composition: Option<Composition>,
    /// How often each image is denoised, which is what it costs: once, or once for the layout and once for each region.
    denoisings_per_image: usize,
}

/// A delta that takes part in a sample or a merge.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeltaUseBody {
    delta: DeltaId,
    /// How much of the delta is applied: 0 is the base model, 1 the concept as trained.
    strength: f64,
}

impl From<DeltaUse> for DeltaUseBody {
    fn from(used: DeltaUse) -> Self {
        Self { delta: used.delta_id, strength: used.strength }
    }
}

impl JobResource for SampleTask {
    type Body = SampleBody;
    type Resolved = ResolvedSample;

    fn body(Sample { job, outcome, .. }: Sample) -> SampleBody {
        SampleBody {
            id: job.job_id.into(),
            object: "sample",
            job: JobBody::from(&job),
            resolved: job.task.into(),
            images: outcome.into_iter().map(ImageBody::from).collect(),
        }
    }

    fn resolved(task: Self) -> ResolvedSample {
        task.into()
    }
}

impl From<SampleTask> for ResolvedSample {
    fn from(task: SampleTask) -> Self {
        let is_merge = task.composition == Composition::Merge;
        Self {
            prompt: task.prompt,
            negative_prompt: task.negative_prompt,
            settings: task.settings,
            init_image: task.init.as_ref().map(|init| init.image_id),
            noise_strength: task.init.map(|init| init.noise_strength),
            merge: (is_merge && task.deltas.len() > 1).then_some(task.merge),
            denoisings_per_image: task.composition.denoisings(),
            composition: (!is_merge || task.deltas.len() > 1).then_some(task.composition),
            deltas: task.deltas.into_iter().map(DeltaUseBody::from).collect(),
        }
    }
}

/// Starts generating images.
///
/// The response is sent as soon as the job is queued; the images are at `GET /v1/samples/{sample_id}` once it has succeeded.
/// The prompt names concepts by their modifier tokens; the `concepts` list can add others. Several concepts are composed
/// as `composition` says. Numbers are rounded to six decimals. The bytes of an image depend on the request only, except for `n`,
/// `first_index` and `determinism`: image `i` of a seed is the same whether it is generated alone or with others. With
/// `from_manifest`, an image is generated again from its manifest.
#[utoipa::path(post, path = "/v1/samples", tag = "samples", request_body = StartSample,
    params(("prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds, at most 55, for the job to end")),
    responses(
        (status = 200, body = DryRunOrJob<SampleBody, ResolvedSample>, headers(("location" = String)),
            description = "The request was a dry run, and nothing has been made. Or it asked to wait with `Prefer: wait=N`, and the sample has failed or was canceled: see `error`"),
        (status = 201, body = SampleBody, headers(("location" = String)),
            description = "The request asked to wait with `Prefer: wait=N`, and the sample has succeeded"),
        (status = 202, body = SampleBody, headers(("location" = String)),
            description = "The sample is queued"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_concept`, `concept_not_trained`, `prompt_too_long`, `base_model_mismatch`, \
                `out_of_range`, `not_a_multiple`, `unknown_field`, `conflicting_fields`, `unknown_image`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`queue_full`, `database_unavailable`"),
    ))]
pub(crate) async fn start_sample(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(body): Json<StartSample>,
) -> Result<Response, ApiError> {
    let options = body.options();
    if body.dry_run.unwrap_or_default() {
        let dry_run = app.try_sample(&caller, body.try_into()?, options).await?;
        return Ok(dry_run::answer(dry_run));
    }
    let sample = app.start_sample(&caller, body.try_into()?, options).await?;
    Ok(job::started(&app, &caller, &headers, sample).await?.into_response())
}

/// Returns a sample, its state and its images.
#[utoipa::path(get, path = "/v1/samples/{sample_id}", tag = "samples", params(("sample_id" = SampleId, Path), WaitQuery),
    responses(
        (status = 200, body = SampleBody, description = "OK. It has `Retry-After` until the job has ended"),
        (status = 304, description = "`If-None-Match` has the current `ETag`"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_sample(
    State(app): State<App>,
    caller: Caller,
    Path(sample_id): Path<SampleId>,
    Query(query): Query<WaitQuery>,
) -> Result<(HeaderMap, axum::Json<SampleBody>), ApiError> {
    job::get::<SampleTask>(&app, &caller, sample_id, &query).await
}

/// Lists samples, newest first.
#[utoipa::path(get, path = "/v1/samples", tag = "samples", params(SampleQuery),
    responses(
        (status = 200, body = ListBody<SampleBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such `concept`"),
    ))]
pub(crate) async fn list_samples(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<SampleQuery>,
) -> Result<List<SampleBody>, ApiError> {
    let page = query.page()?;
    let mut checks = Checks::default();
    checks.in_range(query.seed.unwrap_or(0), 0..=MAX_SEED, "seed");
    checks.finish()?;
    let wanted = WantedJobs {
        status: query.status,
        concept: query.concept.as_deref(),
        external_id: query.external_id,
        prompt: query.prompt.unwrap_or_default(),
        seed: query.seed,
    };
    job::list_wanted::<SampleTask>(&app, &caller, wanted, page).await
}

/// Cancels a sample, as for a training.
#[utoipa::path(post, path = "/v1/samples/{sample_id}/cancel", tag = "samples",
    params(("sample_id" = SampleId, Path), IfMatch),
    responses(
        (status = 200, body = SampleBody, description = "The job has ended"),
        (status = 202, body = SampleBody, description = "The job stops at its next step"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn cancel_sample(
    State(app): State<App>,
    caller: Caller,
    Path(sample_id): Path<SampleId>,
    precondition: Precondition,
) -> Result<(StatusCode, axum::Json<SampleBody>), ApiError> {
    job::cancel::<SampleTask>(&app, &caller, sample_id, &precondition).await
}
