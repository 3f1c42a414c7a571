//! Samples: from a prompt to images.

mod start;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use self::start::StartSample;
use super::body::{List, ListBody, SampleQuery};
use super::dry_run::{self, DryRunOrJob};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::image::ImageBody;
use super::job::{self, JobBody, JobResource, WaitQuery};
use super::precondition::IfMatch;
use crate::app::job::{Sample, WantedJobs};
use crate::app::{App, Caller, Precondition};
use crate::domain::composition::Composition;
use crate::domain::id::{DeltaId, ImageId, SampleId};
use crate::domain::invalid::Checks;
use crate::domain::merge::MergeRecipe;
use crate::domain::sample::{DeltaUse, MAX_SEED, SampleSettings, SampleTask};

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
