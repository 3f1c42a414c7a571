//! Changes and deletions of jobs: one implementation for all kinds.

use axum::extract::State;

use super::JobResource;
use crate::app::{App, Caller, Precondition};
use crate::domain::compression::CompressionTask;
use crate::domain::evaluation::EvaluationTask;
use crate::domain::id::{CompressionId, EvaluationId, MergeId, SampleId, TrainingId};
use crate::domain::labelled::Labelled;
use crate::domain::merge::MergeTask;
use crate::domain::sample::SampleTask;
use crate::domain::training::task::TrainingTask;
use crate::http::compression::CompressionBody;
use crate::http::error::{ApiError, Problem};
use crate::http::evaluation::EvaluationBody;
use crate::http::extract::{Path, Query};
use crate::http::merge::MergeBody;
use crate::http::precondition::IfMatch;
use crate::http::record::{DeletionBody, DeletionQuery, MergePatch, PatchLabels};
use crate::http::sample::SampleBody;
use crate::http::training::TrainingBody;

async fn patch<N: JobResource>(
    app: &App,
    caller: &Caller,
    id: N::Id,
    body: PatchLabels,
    precondition: &Precondition,
) -> Result<axum::Json<N::Body>, ApiError> {
    let object = Labelled::Job(id.into(), N::KIND);
    app.relabel(caller, object, body.into(), precondition).await?;
    Ok(axum::Json(N::body(app.job(caller, id).await?)))
}

async fn delete<N: JobResource>(
    app: &App,
    caller: &Caller,
    id: N::Id,
    query: &DeletionQuery,
    precondition: &Precondition,
) -> Result<axum::Json<DeletionBody>, ApiError> {
    let removed = app.delete_job::<N>(caller, id, query.cascade, precondition).await?;
    Ok(DeletionBody::new(id, removed))
}

macro_rules! edited {
    ($(
        $tag:tt, $path:tt, $name:tt: $id:ident, $task:ident, $body:ident;
        $patch:ident: $patched:tt;
        $delete:ident: $deleted:tt;
    )*) => {$(
        #[doc = $patched]
        ///
        /// Its work and its settings cannot be changed.
        #[utoipa::path(patch, path = $path, tag = $tag, request_body = PatchLabels,
            params(($name = $id, Path), IfMatch),
            responses(
                (status = 200, body = $body, description = "As it is after the change"),
                (status = 404, body = Problem, content_type = "application/problem+json",
                    description = "`not_found`"),
                (status = 409, body = Problem, content_type = "application/problem+json",
                    description = "`external_id_taken`"),
                (status = 412, body = Problem, content_type = "application/problem+json",
                    description = "`precondition_failed`"),
                (status = 422, body = Problem, content_type = "application/problem+json",
                    description = "`unknown_field`, `invalid_value`"),
            ))]
        pub(crate) async fn $patch(
            State(app): State<App>,
            caller: Caller,
            Path(id): Path<$id>,
            precondition: Precondition,
            MergePatch(body): MergePatch<PatchLabels>,
        ) -> Result<axum::Json<$body>, ApiError> {
            patch::<$task>(&app, &caller, id, body, &precondition).await
        }

        #[doc = $deleted]
        #[utoipa::path(delete, path = $path, tag = $tag, params(($name = $id, Path), DeletionQuery, IfMatch),
            responses(
                (status = 200, body = DeletionBody, description = "Deleted, with what belonged to it"),
                (status = 404, body = Problem, content_type = "application/problem+json",
                    description = "`not_found`"),
                (status = 409, body = Problem, content_type = "application/problem+json",
                    description = "`job_not_ended`, `job_in_use`"),
                (status = 412, body = Problem, content_type = "application/problem+json",
                    description = "`precondition_failed`"),
            ))]
        pub(crate) async fn $delete(
            State(app): State<App>,
            caller: Caller,
            Path(id): Path<$id>,
            Query(query): Query<DeletionQuery>,
            precondition: Precondition,
        ) -> Result<axum::Json<DeletionBody>, ApiError> {
            delete::<$task>(&app, &caller, id, &query, &precondition).await
        }
    )*};
}

edited! {
    "trainings", "/v1/trainings/{training_id}", "training_id": TrainingId, TrainingTask, TrainingBody;
    patch_training: "Changes what you have attached to a training.";
    delete_training: "Deletes a training that has ended, with its events and its loss curve. Its delta has to be deleted before, or with it by `cascade=true`.";

    "merges", "/v1/merges/{merge_id}", "merge_id": MergeId, MergeTask, MergeBody;
    patch_merge: "Changes what you have attached to a merge.";
    delete_merge: "Deletes a merge that has ended. Its delta has to be deleted before, or with it by `cascade=true`.";

    "samples", "/v1/samples/{sample_id}", "sample_id": SampleId, SampleTask, SampleBody;
    patch_sample: "Changes what you have attached to a sample.";
    delete_sample: "Deletes a sample that has ended, with its images. The samples of an evaluation are deleted with the evaluation.";

    "evaluations", "/v1/evaluations/{evaluation_id}", "evaluation_id": EvaluationId, EvaluationTask, EvaluationBody;
    patch_evaluation: "Changes what you have attached to an evaluation.";
    delete_evaluation: "Deletes an evaluation that has ended, with its samples and their images. Preference studies of these images have to be deleted before, or with it by `cascade=true`.";

    "compressions", "/v1/compressions/{compression_id}", "compression_id": CompressionId, CompressionTask, CompressionBody;
    patch_compression: "Changes what you have attached to a compression.";
    delete_compression: "Deletes a compression that has ended. Its delta has to be deleted before, or with it by `cascade=true`.";
}
