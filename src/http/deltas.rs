//! Deltas: what trainings and merges made.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::body::{ListBody, ListQuery, Timestamp};
use super::concepts::find_one;
use super::content::{Content, is_current, not_modified};
use super::error::{ApiError, Problem};
use super::extract::{Path, Query};
use super::jobs::job_path;
use crate::db;
use crate::domain::concept::{ClassNoun, Handle, ModifierToken};
use crate::domain::delta::{Delta, DeltaConcept};
use crate::domain::id::{ConceptId, DeltaId};
use crate::storage::StorageKey;

/// The result of a training or a merge; it never changes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeltaBody {
    id: DeltaId,
    #[schema(value_type = String, examples("delta"))]
    object: &'static str,
    concepts: Vec<DeltaConceptBody>,
    /// The base model that it belongs to, by its digest.
    base_model_digest: String,
    /// Path of the training or merge that made it.
    made_by: String,
    size_bytes: i64,
    /// SHA-256 of the content.
    sha256: String,
    created_at: Timestamp,
    /// Path of the content.
    url: String,
}

/// A concept that a delta contains.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeltaConceptBody {
    id: ConceptId,
    handle: Handle,
    modifier_token: Option<ModifierToken>,
    class_noun: ClassNoun,
}

impl DeltaBody {
    fn new(delta: Delta, contents: &[DeltaConcept]) -> Self {
        let concepts = contents.iter().filter(|concept| concept.delta_id == delta.delta_id);
        let concepts = concepts.cloned().map(|concept| DeltaConceptBody {
            id: concept.concept_id,
            handle: concept.handle,
            modifier_token: concept.modifier_token,
            class_noun: concept.class_noun,
        });
        Self {
            id: delta.delta_id,
            object: "delta",
            concepts: concepts.collect(),
            base_model_digest: delta.base_digest,
            made_by: job_path(delta.job_id, delta.made_by),
            size_bytes: delta.size_bytes,
            sha256: delta.sha256,
            created_at: delta.created_at.into(),
            url: format!("/v1/deltas/{}/content", delta.delta_id),
        }
    }
}

/// Which deltas to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeltaQuery {
    /// At most so many, 1 to 100.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before.
    after: Option<String>,
    /// Only deltas of this concept, by id or handle.
    concept: Option<String>,
}

/// Lists deltas, newest first.
#[utoipa::path(get, path = "/v1/deltas", tag = "deltas", params(DeltaQuery),
    responses(
        (status = 200, body = ListBody<DeltaBody>),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn list_deltas(
    State(app): State<App>,
    Query(query): Query<DeltaQuery>,
) -> Result<axum::Json<ListBody<DeltaBody>>, ApiError> {
    let concept_id = match &query.concept {
        Some(concept) => Some(find_one(&app, concept).await?.concept_id),
        None => None,
    };
    let query = ListQuery::new(query.limit, query.after);
    let deltas = db::deltas::list(&app.db, concept_id, query.page()?).await?;
    let ids: Vec<DeltaId> = deltas.iter().map(|delta| delta.delta_id).collect();
    let contents = db::deltas::concepts_of(&app.db, &ids).await?;
    let body = |delta| DeltaBody::new(delta, &contents);
    Ok(axum::Json(ListBody::new(deltas, &query, |delta| delta.delta_id.0, body)))
}

/// Returns what is known about a delta.
#[utoipa::path(get, path = "/v1/deltas/{delta_id}", tag = "deltas", params(("delta_id" = DeltaId, Path)),
    responses(
        (status = 200, body = DeltaBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get_delta(
    State(app): State<App>,
    Path(delta_id): Path<DeltaId>,
) -> Result<axum::Json<DeltaBody>, ApiError> {
    let delta = find_delta(&app, delta_id).await?;
    let contents = db::deltas::concepts_of(&app.db, &[delta_id]).await?;
    Ok(axum::Json(DeltaBody::new(delta, &contents)))
}

/// Returns the weights, as a safetensors file.
///
/// Deltas never change: `If-None-Match` with the entity tag is answered by 304. A single `Range` is honoured.
#[utoipa::path(get, path = "/v1/deltas/{delta_id}/content", tag = "deltas",
    params(("delta_id" = DeltaId, Path)),
    responses(
        (status = 200, content_type = "application/vnd.safetensors", body = Vec<u8>),
        (status = 304),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get_delta_content(
    State(app): State<App>,
    Path(delta_id): Path<DeltaId>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let delta = find_delta(&app, delta_id).await?;
    if is_current(&headers, &delta.sha256) {
        return Ok(not_modified(&delta.sha256));
    }
    let bytes = app.storage.read(&StorageKey::stored(&delta.storage_key)).await?;
    let file_name = format!("{delta_id}.safetensors");
    let content_type = "application/vnd.safetensors";
    Content { bytes, content_type, sha256: &delta.sha256, file_name: &file_name }
        .into_response(&headers)
}

async fn find_delta(app: &App, delta_id: DeltaId) -> Result<Delta, ApiError> {
    let found = db::deltas::find(&app.db, &[delta_id]).await?;
    found.into_iter().next().ok_or_else(|| ApiError::not_found("delta", delta_id))
}
