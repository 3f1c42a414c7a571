//! Deltas: what trainings and merges have made.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{DeltaQuery, List, ListBody, Timestamp};
use super::content::{Content, is_current, not_modified};
use super::error::{ApiError, Problem};
use super::extract::{Path, Query};
use super::job::job_path;
use super::precondition::IfMatch;
use super::record::{DeletionBody, DeletionQuery, MergePatch, PatchLabels, RecordBody};
use crate::app::delta::{DeltaContents, WantedDeltas};
use crate::app::{App, Caller, Precondition};
use crate::domain::concept::{ConceptWords, Handle};
use crate::domain::delta::{DeltaConcept, DeltaFormat};
use crate::domain::digest::Digest;
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::labelled::Labelled;

/// The result of a training, a merge or a compression. A delta never changes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeltaBody {
    id: DeltaId,
    #[schema(value_type = String, examples("delta"))]
    object: &'static str,
    /// The concepts that the delta contains.
    concepts: Vec<DeltaConceptBody>,
    /// The digest of the base model that the delta belongs to.
    base_model_digest: Digest,
    /// Path of the training, merge or compression that made the delta.
    made_by: String,
    /// Size of the file in bytes.
    size_bytes: i64,
    /// The digest of the file.
    sha256: Digest,
    /// Why the delta cannot be merged yet, if that is so: what merges need of it could not be made. A worker tries again when it
    /// starts. Samples of this delta alone do not need it.
    merge_error: Option<String>,
    created_at: Timestamp,
    #[serde(flatten)]
    record: RecordBody,
    /// Path of the file.
    url: String,
}

/// A concept that a delta contains.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeltaConceptBody {
    id: ConceptId,
    handle: Handle,
    #[serde(flatten)]
    words: ConceptWords,
}

impl From<DeltaConcept> for DeltaConceptBody {
    fn from(concept: DeltaConcept) -> Self {
        Self { id: concept.concept_id, handle: concept.handle, words: concept.words }
    }
}

impl From<DeltaContents> for DeltaBody {
    fn from(DeltaContents { delta, concepts }: DeltaContents) -> Self {
        Self {
            id: delta.delta_id,
            object: "delta",
            concepts: concepts.into_iter().map(DeltaConceptBody::from).collect(),
            base_model_digest: delta.base_digest,
            made_by: job_path(delta.job_id, delta.made_by),
            size_bytes: delta.size_bytes,
            sha256: delta.sha256,
            merge_error: delta.pack_error,
            created_at: delta.created_at.into(),
            record: delta.record.into(),
            url: format!("/v1/deltas/{}/content", delta.delta_id),
        }
    }
}

/// Lists deltas, newest first.
#[utoipa::path(get, path = "/v1/deltas", tag = "deltas", params(DeltaQuery),
    responses(
        (status = 200, body = ListBody<DeltaBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`: there is no such `concept`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`invalid_value`, `out_of_range`, …"),
    ))]
pub(crate) async fn list_deltas(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<DeltaQuery>,
) -> Result<List<DeltaBody>, ApiError> {
    let (page, sha256) = (query.page()?, query.digest()?);
    let (concept, external_id) = (query.concept.as_deref(), query.external_id);
    let wanted = WantedDeltas { concept, sha256, external_id };
    let deltas = app.deltas(&caller, wanted, page).await?;
    Ok(List::new(deltas, |one| one.delta.delta_id.0, DeltaBody::from))
}

/// Returns what is known about a delta.
#[utoipa::path(get, path = "/v1/deltas/{delta_id}", tag = "deltas", params(("delta_id" = DeltaId, Path)),
    responses(
        (status = 200, body = DeltaBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_delta(
    State(app): State<App>,
    caller: Caller,
    Path(delta_id): Path<DeltaId>,
) -> Result<axum::Json<DeltaBody>, ApiError> {
    Ok(axum::Json(app.delta(&caller, delta_id).await?.into()))
}

/// Changes what you have attached to a delta.
///
/// Its weights never change.
#[utoipa::path(patch, path = "/v1/deltas/{delta_id}", tag = "deltas", request_body = PatchLabels,
    params(("delta_id" = DeltaId, Path), IfMatch),
    responses(
        (status = 200, body = DeltaBody, description = "As it is after the change"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`external_id_taken`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_field`, `invalid_value`"),
    ))]
pub(crate) async fn patch_delta(
    State(app): State<App>,
    caller: Caller,
    Path(delta_id): Path<DeltaId>,
    precondition: Precondition,
    MergePatch(body): MergePatch<PatchLabels>,
) -> Result<axum::Json<DeltaBody>, ApiError> {
    app.relabel(&caller, Labelled::Delta(delta_id), body.into(), &precondition).await?;
    Ok(axum::Json(app.delta(&caller, delta_id).await?.into()))
}

/// Deletes a delta.
///
/// If it is the current delta of a concept, the response is 409, unless `cascade=true`: then the concept goes back to the delta
/// that was the current one before. The job that made it stays, and so do samples and merges that have used it. Jobs that have
/// not ended and need it keep its file until they have.
#[utoipa::path(delete, path = "/v1/deltas/{delta_id}", tag = "deltas",
    params(("delta_id" = DeltaId, Path), DeletionQuery, IfMatch),
    responses(
        (status = 200, body = DeletionBody, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`delta_in_use`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn delete_delta(
    State(app): State<App>,
    caller: Caller,
    Path(delta_id): Path<DeltaId>,
    Query(query): Query<DeletionQuery>,
    precondition: Precondition,
) -> Result<axum::Json<DeletionBody>, ApiError> {
    let removed = app.delete_delta(&caller, delta_id, query.cascade, &precondition).await?;
    Ok(DeletionBody::new(delta_id, removed))
}

/// Which file of a delta to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeltaContentQuery {
    /// `native` returns the file as it is stored, in which merged, compressed and low-rank deltas are factorized. `dense`
    /// returns whole matrices, for other programs. Defaults to `native`.
    #[serde(default)]
    #[param(inline)]
    format: DeltaFormat,
}

/// Returns the weights of a delta as a safetensors file.
///
/// Matrices that the delta does not change are not in the file. With `format=dense` every matrix is whole, in f16, and has its name in diffusers, such as `….attn2.to_k.weight`:
/// `pipe.unet.load_state_dict(load_file(path), strict=False)` applies it. The file never changes, so a request with
/// `If-None-Match` and the current entity tag returns 304. A single `Range` is supported.
#[utoipa::path(get, path = "/v1/deltas/{delta_id}/content", tag = "deltas",
    params(("delta_id" = DeltaId, Path), DeltaContentQuery),
    responses(
        (status = 200, content_type = "application/vnd.safetensors", body = Vec<u8>, description = "OK"),
        (status = 304, description = "The client has the current file"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`base_model_mismatch`: whole matrices need the base model that the delta was made for"),
        (status = 503, body = Problem, content_type = "application/problem+json",
            headers(("retry-after" = u64)), description = "`overloaded`, `storage_unavailable`, `database_unavailable`"),
    ))]
pub(crate) async fn get_delta_content(
    State(app): State<App>,
    caller: Caller,
    Path(delta_id): Path<DeltaId>,
    Query(query): Query<DeltaContentQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let delta = app.delta(&caller, delta_id).await?.delta;
    let suffix = match query.format {
        DeltaFormat::Native => "",
        DeltaFormat::Dense => "-dense", // follows from the native file, and so does its tag
    };
    let entity_tag = format!("{}{suffix}", delta.sha256);
    if is_current(&headers, &entity_tag) {
        return Ok(not_modified(&entity_tag));
    }
    let file = app.delta_file(&caller, &delta, query.format).await?;
    let content = Content {
        content_type: "application/vnd.safetensors",
        entity_tag: &entity_tag,
        file_name: &format!("{delta_id}{suffix}.safetensors"),
    };
    content.download(file, &headers).await
}
