//! Dry runs: what a request would make, without making it.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::job::JobResource;
use crate::app::dry_run::{ConceptDataset, Dataset, DryRun};
use crate::domain::concept::Handle;
use crate::domain::id::ConceptId;
use crate::domain::job::JobKind;
use crate::domain::job::forecast::Forecast;
use crate::domain::warning::Warning;

/// What a request would make, if it did not say `dry_run`. Nothing has been made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DryRunBody<T> {
    #[schema(value_type = String, examples("dry_run"))]
    object: &'static str,
    /// The kind of job that the request would start.
    kind: JobKind,
    /// What the job would do, with every name resolved and every default filled in.
    resolved: T,
    /// The photos and class images that it would work with. Trainings only.
    dataset: Option<DatasetBody>,
    /// The number of tokens of `prompt`, with begin and end. Samples with a prompt only.
    prompt_tokens: Option<usize>,
    /// The number of tokens of `negative_prompt`, with begin and end. Samples with a prompt only.
    negative_prompt_tokens: Option<usize>,
    estimate: EstimateBody,
    /// What the result may suffer from. The request would be accepted all the same.
    warnings: Vec<Warning>,
}

/// A dry run, or a job that has ended without success while its request waited.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes answers; the handlers write either")]
pub(crate) enum DryRunOrJob<B, T> {
    DryRun(DryRunBody<T>),
    Job(B),
}

/// How long a job would wait and run.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct EstimateBody {
    /// From its start to its end, in seconds.
    run_seconds: f64,
    /// From the request to its start, in seconds.
    queue_seconds: f64,
    /// The number of jobs of its kind that would run before it.
    jobs_ahead: i64,
    /// The number of jobs of its kind whose speed the estimate goes by, at most 20. If it is 0, none has succeeded yet, and the
    /// estimate is for a usual GPU: on a CPU, expect many times as long.
    measured_jobs: i64,
}

impl From<Forecast> for EstimateBody {
    fn from(forecast: Forecast) -> Self {
        let tenths = |seconds: f64| (seconds * 10.0).round() / 10.0;
        Self {
            run_seconds: tenths(forecast.run_seconds),
            queue_seconds: tenths(forecast.queue_seconds),
            jobs_ahead: forecast.jobs_ahead,
            measured_jobs: forecast.measured_jobs,
        }
    }
}

/// What a training would learn from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatasetBody {
    /// The concepts, in the order of the request.
    concepts: Vec<ConceptDatasetBody>,
    /// The number of class images, over all concepts. Null if the base model's worker takes those that fit.
    class_image_count: Option<usize>,
    /// How often each photo would be looked at, on average.
    passes: f64,
}

/// The photos of a concept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConceptDatasetBody {
    id: ConceptId,
    handle: Handle,
    /// The number of photos.
    image_count: usize,
    /// The shortest side among all photos, in pixels.
    smallest_side: i32,
    /// Captions as the training would make them, for example.
    captions: Vec<String>,
}

impl From<Dataset> for DatasetBody {
    fn from(dataset: Dataset) -> Self {
        let Dataset { concepts, class_image_count, passes } = dataset;
        let passes = (passes * 10.0).round() / 10.0;
        let concepts = concepts.into_iter().map(ConceptDatasetBody::from).collect();
        Self { concepts, class_image_count, passes }
    }
}

impl From<ConceptDataset> for ConceptDatasetBody {
    fn from(of_concept: ConceptDataset) -> Self {
        let ConceptDataset { concept_id, handle, image_count, smallest_side, captions } =
            of_concept;
        Self { id: concept_id, handle, image_count, smallest_side, captions }
    }
}

/// The answer to a dry run: 200.
pub(crate) fn answer<N: JobResource>(dry_run: DryRun<N>) -> Response {
    let DryRun { task, warnings, dataset, prompt_tokens, forecast } = dry_run;
    let body = DryRunBody {
        object: "dry_run",
        kind: N::KIND,
        resolved: N::resolved(task),
        dataset: dataset.map(DatasetBody::from),
        prompt_tokens: prompt_tokens.map(|tokens| tokens.prompt),
        negative_prompt_tokens: prompt_tokens.map(|tokens| tokens.negative_prompt),
        estimate: forecast.into(),
        warnings,
    };
    Json(body).into_response()
}
