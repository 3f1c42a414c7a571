//! Compressions: a delta in fewer numbers.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{JobQuery, List, ListBody};
use super::dry_run::{self, DryRunOrJob};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::job::{self, JobBody, JobResource, WaitQuery};
use super::precondition::IfMatch;
use crate::app::compression::{Compression, NewCompression};
use crate::app::queue::JobOptions;
use crate::app::{App, Caller, Precondition};
use crate::domain::compression::{CompressionReport, CompressionTask};
use crate::domain::id::{CompressionId, ConceptId, DeltaId};
use crate::domain::job::schedule::{Priority, Schedule};
use crate::domain::record::{ExternalId, Labels, Metadata};

/// How to compress a delta: either `rank` or `energy`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StartCompression {
    /// The number of singular values to keep of each matrix's change, from 1 to 1024. All of them are kept of a matrix that has
    /// no more.
    #[schema(minimum = 1, maximum = 1024, examples(4))]
    rank: Option<usize>,
    /// The share of the sum of each matrix's singular values to keep, above 0 and at most 1. As few singular values are kept as
    /// reach it, and at least one. The paper keeps 0.6.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    energy: Option<f64>,
    /// Whether the resulting delta becomes the current delta of its concepts. Defaults to false.
    #[serde(default)]
    #[schema(default = false)]
    make_current: bool,
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

impl StartCompression {
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

impl From<StartCompression> for NewCompression {
    fn from(body: StartCompression) -> Self {
        let StartCompression { rank, energy, make_current, .. } = body;
        Self { rank, energy, make_current }
    }
}

/// A compression and its state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CompressionBody {
    id: CompressionId,
    #[schema(value_type = String, examples("compression"))]
    object: &'static str,
    #[serde(flatten)]
    resolved: ResolvedCompression,
    /// The resulting delta, once the compression has succeeded.
    delta: Option<DeltaId>,
    /// What was kept of each matrix, once the compression has succeeded.
    report: Option<CompressionReport>,
    #[serde(flatten)]
    job: JobBody,
}

/// What a compression does, with every default filled in.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ResolvedCompression {
    /// The delta that is compressed.
    source: DeltaId,
    /// The concepts that both deltas contain.
    concepts: Vec<ConceptId>,
    /// The number of singular values to keep. Null if the request gave an energy.
    rank: Option<usize>,
    /// The share of the sum of singular values to keep. Null if the request gave a rank.
    energy: Option<f64>,
    /// Whether the resulting delta becomes the current delta of its concepts.
    make_current: bool,
}

impl JobResource for CompressionTask {
    type Body = CompressionBody;
    type Resolved = ResolvedCompression;

    fn body(Compression { job, outcome, .. }: Compression) -> CompressionBody {
        CompressionBody {
            id: job.job_id.into(),
            object: "compression",
            delta: outcome.delta,
            report: outcome.report,
            job: JobBody::from(&job),
            resolved: job.task.into(),
        }
    }

    fn resolved(task: Self) -> ResolvedCompression {
        task.into()
    }
}

impl From<CompressionTask> for ResolvedCompression {
    fn from(task: CompressionTask) -> Self {
        Self {
            source: task.delta.delta_id,
            concepts: task.concepts,
            rank: task.keep.rank(),
            energy: task.keep.energy(),
            make_current: task.make_current,
        }
    }
}

/// Compresses a delta into a new one.
///
/// The change of each key and value projection is reduced to its largest singular values and stored in factors. Embedding rows
/// are kept as they are. The new delta is used like any other; the concepts keep their current deltas unless `make_current` is
/// true. A small rank gives a small file, whose images differ more from those of the source: compare them with an evaluation.
#[utoipa::path(post, path = "/v1/deltas/{delta_id}/compress", tag = "compressions", request_body = StartCompression,
    params(
        ("delta_id" = DeltaId, Path),
        ("prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds, at most 55, for the job to end"),
    ),
    responses(
        (status = 200, body = DryRunOrJob<CompressionBody, ResolvedCompression>, headers(("location" = String)),
            description = "The request was a dry run, and nothing has been made. Or it asked to wait with `Prefer: wait=N`, and the compression has failed or was canceled: see `error`"),
        (status = 201, body = CompressionBody, headers(("location" = String)),
            description = "The request asked to wait with `Prefer: wait=N`, and the compression has succeeded"),
        (status = 202, body = CompressionBody, headers(("location" = String)),
            description = "The compression is queued"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`missing_field`, `conflicting_fields`, `out_of_range`, `base_model_mismatch`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`queue_full`, `database_unavailable`"),
    ))]
pub(crate) async fn compress_delta(
    State(app): State<App>,
    caller: Caller,
    Path(delta_id): Path<DeltaId>,
    headers: HeaderMap,
    Json(body): Json<StartCompression>,
) -> Result<Response, ApiError> {
    let options = body.options();
    if body.dry_run.unwrap_or_default() {
        let dry_run = app.try_compression(&caller, delta_id, body.into(), options).await?;
        return Ok(dry_run::answer(dry_run));
    }
    let compression = app.start_compression(&caller, delta_id, body.into(), options).await?;
    Ok(job::started(&app, &caller, &headers, compression).await?.into_response())
}

/// Returns a compression and its state.
#[utoipa::path(get, path = "/v1/compressions/{compression_id}", tag = "compressions",
    params(("compression_id" = CompressionId, Path), WaitQuery),
    responses(
        (status = 200, body = CompressionBody, description = "OK. It has `Retry-After` until the job has ended"),
        (status = 304, description = "`If-None-Match` has the current `ETag`"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_compression(
    State(app): State<App>,
    caller: Caller,
    Path(compression_id): Path<CompressionId>,
    Query(query): Query<WaitQuery>,
) -> Result<(HeaderMap, axum::Json<CompressionBody>), ApiError> {
    job::get::<CompressionTask>(&app, &caller, compression_id, &query).await
}

/// Lists compressions, newest first.
#[utoipa::path(get, path = "/v1/compressions", tag = "compressions", params(JobQuery),
    responses(
        (status = 200, body = ListBody<CompressionBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such `concept`"),
    ))]
pub(crate) async fn list_compressions(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<JobQuery>,
) -> Result<List<CompressionBody>, ApiError> {
    job::list::<CompressionTask>(&app, &caller, &query).await
}

/// Cancels a compression, as for a training.
#[utoipa::path(post, path = "/v1/compressions/{compression_id}/cancel", tag = "compressions",
    params(("compression_id" = CompressionId, Path), IfMatch),
    responses(
        (status = 200, body = CompressionBody, description = "The job has ended"),
        (status = 202, body = CompressionBody, description = "The job stops at its next step"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn cancel_compression(
    State(app): State<App>,
    caller: Caller,
    Path(compression_id): Path<CompressionId>,
    precondition: Precondition,
) -> Result<(StatusCode, axum::Json<CompressionBody>), ApiError> {
    job::cancel::<CompressionTask>(&app, &caller, compression_id, &precondition).await
}
