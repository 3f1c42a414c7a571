//! Deltas: what trainings and merges made.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{ListBody, ListQuery, Timestamp};
use super::concept::find_one;
use super::content::{Content, is_current, not_modified};
use super::error::{ApiError, Problem};
use super::extract::{Path, Query};
use super::job::job_path;
use crate::app::App;
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::{ConceptWords, Handle};
use crate::domain::delta::{Delta, DeltaConcept};
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::invalid::FieldError;
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
    #[serde(flatten)]
    words: ConceptWords,
}

impl DeltaBody {
    fn new(delta: Delta, contents: &[DeltaConcept]) -> Self {
        let concepts = contents.iter().filter(|concept| concept.delta_id == delta.delta_id);
        let concepts = concepts.cloned().map(|concept| DeltaConceptBody {
            id: concept.concept_id,
            handle: concept.handle,
            words: concept.words,
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
    let deltas = db::delta::list(&app.db, concept_id, query.page()?).await?;
    let ids: Vec<DeltaId> = deltas.iter().map(|delta| delta.delta_id).collect();
    let contents = db::delta::concepts_of(&app.db, &ids).await?;
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
    let contents = db::delta::concepts_of(&app.db, &[delta_id]).await?;
    Ok(axum::Json(DeltaBody::new(delta, &contents)))
}

/// Which file of a delta to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeltaContentQuery {
    /// `native` as it is stored: a merged delta in factors. `dense` with every matrix whole, for other programs.
    #[serde(default)]
    #[param(inline)]
    format: DeltaFormat,
}

/// How a delta's matrices are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeltaFormat {
    #[default]
    Native,
    Dense,
}

/// Returns the weights, as a safetensors file.
///
/// With `format=dense` every matrix is whole, in f16 and under its name in diffusers, such as `….attn2.to_k.weight`, so
/// that `pipe.unet.load_state_dict(load_file(path), strict=False)` applies it. Deltas never change: `If-None-Match` with
/// the entity tag is answered by 304. A single `Range` is honoured.
#[utoipa::path(get, path = "/v1/deltas/{delta_id}/content", tag = "deltas",
    params(("delta_id" = DeltaId, Path), DeltaContentQuery),
    responses(
        (status = 200, content_type = "application/vnd.safetensors", body = Vec<u8>),
        (status = 304),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`base_model_mismatch`: whole matrices need the base model that the delta was made for"),
    ))]
pub(crate) async fn get_delta_content(
    State(app): State<App>,
    Path(delta_id): Path<DeltaId>,
    Query(query): Query<DeltaContentQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let delta = find_delta(&app, delta_id).await?;
    let (sha256, file_name) = match query.format {
        DeltaFormat::Native => (delta.sha256.clone(), format!("{delta_id}.safetensors")),
        // It follows from the native file.
        DeltaFormat::Dense => {
            (format!("{}-dense", delta.sha256), format!("{delta_id}-dense.safetensors"))
        }
    };
    if is_current(&headers, &sha256) {
        return Ok(not_modified(&sha256));
    }
    let bytes = match query.format {
        DeltaFormat::Native => app.storage.read(&StorageKey::stored(&delta.storage_key)).await?,
        DeltaFormat::Dense => {
            check_served(&app, &delta)?;
            app.merge_desk.dense(&delta.storage_key).await?.into()
        }
    };
    let content_type = "application/vnd.safetensors";
    Content { bytes, content_type, sha256: &sha256, file_name: &file_name }.into_response(&headers)
}

fn check_served(app: &App, delta: &Delta) -> Result<(), ApiError> {
    if delta.base_digest == app.model.digest {
        return Ok(());
    }
    let detail = format!(
        "`{}` was made for base model {:.12}, this service has {} ({:.12}): ask for the native format",
        delta.delta_id, delta.base_digest, app.model.name, app.model.digest
    );
    Err(ApiError::Conflict(FieldError::new("format", Code::BaseModelMismatch, detail)))
}

async fn find_delta(app: &App, delta_id: DeltaId) -> Result<Delta, ApiError> {
    let found = db::delta::find(&app.db, &[delta_id]).await?;
    found.into_iter().next().ok_or_else(|| ApiError::not_found("delta", delta_id))
}
