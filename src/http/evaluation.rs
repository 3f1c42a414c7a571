//! Evaluations: figures of how well images show concepts.

mod body;
mod file;
mod sample;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

pub(crate) use self::body::{EvaluationBody, ResolvedEvaluation, StartEvaluation};
pub(crate) use self::file::{
    __path_get_evaluation_alignment, __path_get_evaluation_losses, __path_get_evaluation_sheet,
    get_evaluation_alignment, get_evaluation_losses, get_evaluation_sheet,
};
pub(crate) use self::sample::{__path_list_evaluation_samples, list_evaluation_samples};
use super::body::{JobQuery, List, ListBody};
use super::dry_run::{self, DryRunOrJob};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::job::{self, WaitQuery};
use super::precondition::IfMatch;
use crate::app::{App, Caller, Precondition};
use crate::domain::evaluation::EvaluationTask;
use crate::domain::id::EvaluationId;

/// Starts an evaluation.
///
/// It generates images of every subject on every prompt, and compares them with the prompts and with the concepts' photos. The
/// images are ordinary samples, which are queued with the evaluation and let other samples go first. Until they have ended,
/// the evaluation is `queued` and its progress counts them. If one of them fails, the evaluation fails with its reason. The
/// settings default to those of the paper: 50 images per prompt, DDPM with 50 steps, a guidance scale of 6.
#[utoipa::path(post, path = "/v1/evaluations", tag = "evaluations", request_body = StartEvaluation,
    params(("prefer" = Option<String>, Header, description = "`wait=N` waits up to N seconds, at most 55, for the job to end")),
    responses(
        (status = 200, body = DryRunOrJob<EvaluationBody, ResolvedEvaluation>, headers(("location" = String)),
            description = "The request was a dry run, and nothing has been made. Or it asked to wait with `Prefer: wait=N`, and the evaluation has failed or was canceled: see `error`"),
        (status = 201, body = EvaluationBody, headers(("location" = String)),
            description = "The request asked to wait with `Prefer: wait=N`, and the evaluation has succeeded"),
        (status = 202, body = EvaluationBody, headers(("location" = String)),
            description = "The evaluation is queued"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`evaluator_missing`, `unknown_concept`, `concept_not_trained`, `delta_of_another_concept`, \
                `dataset_too_small`, `prompt_too_long`, `out_of_range`, `unknown_image_set`, …"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`queue_full`, `database_unavailable`"),
    ))]
pub(crate) async fn start_evaluation(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    Json(body): Json<StartEvaluation>,
) -> Result<Response, ApiError> {
    let options = body.options();
    if body.dry_run.unwrap_or_default() {
        let dry_run = app.try_evaluation(&caller, body.into(), options).await?;
        return Ok(dry_run::answer(dry_run));
    }
    let evaluation = app.start_evaluation(&caller, body.into(), options).await?;
    Ok(job::started(&app, &caller, &headers, evaluation).await?.into_response())
}

/// Returns an evaluation, its state and, once it has succeeded, its report.
#[utoipa::path(get, path = "/v1/evaluations/{evaluation_id}", tag = "evaluations",
    params(("evaluation_id" = EvaluationId, Path), WaitQuery),
    responses(
        (status = 200, body = EvaluationBody, description = "OK. It has `Retry-After` until the job has ended"),
        (status = 304, description = "`If-None-Match` has the current `ETag`"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_evaluation(
    State(app): State<App>,
    caller: Caller,
    Path(evaluation_id): Path<EvaluationId>,
    Query(query): Query<WaitQuery>,
) -> Result<(HeaderMap, axum::Json<EvaluationBody>), ApiError> {
    job::get::<EvaluationTask>(&app, &caller, evaluation_id, &query).await
}

/// Lists evaluations, newest first.
#[utoipa::path(get, path = "/v1/evaluations", tag = "evaluations", params(JobQuery),
    responses(
        (status = 200, body = ListBody<EvaluationBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such `concept`"),
    ))]
pub(crate) async fn list_evaluations(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<JobQuery>,
) -> Result<List<EvaluationBody>, ApiError> {
    job::list::<EvaluationTask>(&app, &caller, &query).await
}

/// Cancels an evaluation and those of its samples that have not ended, as for a training.
#[utoipa::path(post, path = "/v1/evaluations/{evaluation_id}/cancel", tag = "evaluations",
    params(("evaluation_id" = EvaluationId, Path), IfMatch),
    responses(
        (status = 200, body = EvaluationBody, description = "The job has ended"),
        (status = 202, body = EvaluationBody, description = "The job stops at its next step"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn cancel_evaluation(
    State(app): State<App>,
    caller: Caller,
    Path(evaluation_id): Path<EvaluationId>,
    precondition: Precondition,
) -> Result<(StatusCode, axum::Json<EvaluationBody>), ApiError> {
    job::cancel::<EvaluationTask>(&app, &caller, evaluation_id, &precondition).await
}
