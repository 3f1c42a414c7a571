//! Concepts: what users teach.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{ConceptQuery, List, ListBody, Timestamp, location};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::image::content_path;
use super::precondition::IfMatch;
use super::record::{DeletionBody, DeletionQuery, MergePatch, RecordBody, present};
use crate::app::concept::{ConceptChanges, CountedConcept, NewConcept};
use crate::app::{App, Caller, Precondition};
use crate::domain::concept::{ClassNoun, ConceptWords, Handle, ModifierToken};
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::record::{ExternalId, Labels, LabelsPatch, Metadata};

/// A concept to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateConcept {
    /// The concept's name in requests. Unique among all concepts.
    handle: Handle,
    /// The word that stands for the concept in prompts, before the class noun: `photo of a <rex> dog`. Omit it to teach a
    /// class that the base model does not know; the class noun alone then stands for the concept.
    modifier_token: Option<ModifierToken>,
    /// The ordinary word for what the concept is.
    class_noun: ClassNoun,
    /// Texts of your own, to be returned with the concept and never interpreted: at most 16, with keys of up to 64 and values of
    /// up to 512 characters. Defaults to none.
    metadata: Option<Metadata>,
    /// Your own id for the concept, of up to 255 characters. A second concept with the same one is refused with
    /// `external_id_taken`, which names the first. Defaults to none.
    external_id: Option<ExternalId>,
}

impl From<CreateConcept> for NewConcept {
    fn from(body: CreateConcept) -> Self {
        let CreateConcept { handle, modifier_token, class_noun, metadata, external_id } = body;
        let labels = Labels { metadata: metadata.unwrap_or_default(), external_id };
        Self { handle, words: ConceptWords { modifier_token, class_noun }, labels }
    }
}

/// A thing that a user teaches.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConceptBody {
    id: ConceptId,
    #[schema(value_type = String, examples("concept"))]
    object: &'static str,
    handle: Handle,
    #[serde(flatten)]
    words: ConceptWords,
    /// The number of photos.
    image_count: i64,
    /// Path of its first photo, the oldest, as PNG or with `?w=` as a thumbnail. Null without photos.
    #[schema(examples("/v1/images/img_01jd8q2m5xet8v3k9c0r4n7w6a/content"))]
    cover: Option<String>,
    /// The delta that a prompt uses when it names the concept: the result of its first training, or the one that was promoted
    /// last. Null before the first.
    current_delta: Option<DeltaId>,
    created_at: Timestamp,
    #[serde(flatten)]
    record: RecordBody,
}

impl From<CountedConcept> for ConceptBody {
    fn from(CountedConcept { concept, image_count, cover }: CountedConcept) -> Self {
        Self {
            id: concept.concept_id,
            object: "concept",
            handle: concept.handle,
            words: concept.words,
            image_count,
            cover: cover.map(content_path),
            current_delta: concept.current_delta,
            created_at: concept.created_at.into(),
            record: concept.record.into(),
        }
    }
}

/// Creates a concept without photos.
///
/// To train it, first add at least four photos with `POST /v1/concepts/{concept}/images`.
#[utoipa::path(post, path = "/v1/concepts", tag = "concepts", request_body = CreateConcept,
    responses(
        (status = 201, body = ConceptBody, headers(("location" = String)), description = "Created"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`handle_taken`, `modifier_token_taken`, `external_id_taken`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`missing_field`, `unknown_field`, `invalid_value`, `out_of_range`, …"),
    ))]
pub(crate) async fn create_concept(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<CreateConcept>,
) -> Result<impl IntoResponse, ApiError> {
    let body = ConceptBody::from(app.create_concept(&caller, body.into()).await?);
    Ok((StatusCode::CREATED, location(&format!("/v1/concepts/{}", body.id)), axum::Json(body)))
}

/// Returns a concept.
#[utoipa::path(get, path = "/v1/concepts/{concept}", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle")),
    responses(
        (status = 200, body = ConceptBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
    ))]
pub(crate) async fn get_concept(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
) -> Result<axum::Json<ConceptBody>, ApiError> {
    Ok(axum::Json(app.concept(&caller, &concept).await?.into()))
}

/// Lists concepts, newest first.
#[utoipa::path(get, path = "/v1/concepts", tag = "concepts", params(ConceptQuery),
    responses(
        (status = 200, body = ListBody<ConceptBody>, description = "OK"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`missing_field`, `unknown_field`, `invalid_value`, `out_of_range`, …"),
    ))]
pub(crate) async fn list_concepts(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ConceptQuery>,
) -> Result<List<ConceptBody>, ApiError> {
    let page = query.page()?;
    let search = query.q.unwrap_or_default();
    let page = app.concepts(&caller, &search, query.external_id.as_ref(), page).await?;
    Ok(List::new(page, |counted| counted.concept.concept_id.0, ConceptBody::from))
}

/// Changes of a concept, as a JSON merge patch (RFC 7396): fields that are absent stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PatchConcept {
    /// Another name in requests, unique among all concepts.
    handle: Option<Handle>,
    /// Entries to add or to replace; an entry that is null is removed. Null removes all entries. At most 16 remain, with keys of
    /// up to 64 and values of up to 512 characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<std::collections::HashMap<String, Option<String>>>)]
    metadata: Option<Option<BTreeMap<String, Option<String>>>>,
    /// Another id of your own, of up to 255 characters. Null removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    external_id: Option<Option<ExternalId>>,
}

/// Changes a concept's handle, or what you have attached to it.
///
/// Its words cannot be changed: deltas have learned them. To use others, create another concept.
#[utoipa::path(patch, path = "/v1/concepts/{concept}", tag = "concepts", request_body = PatchConcept,
    params(("concept" = String, Path, description = "Id or handle"), IfMatch),
    responses(
        (status = 200, body = ConceptBody, description = "As it is after the change"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`handle_taken`, `external_id_taken`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_field`, `invalid_value`"),
    ))]
pub(crate) async fn patch_concept(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
    precondition: Precondition,
    MergePatch(body): MergePatch<PatchConcept>,
) -> Result<axum::Json<ConceptBody>, ApiError> {
    let PatchConcept { handle, metadata, external_id } = body;
    let changes = ConceptChanges { handle, labels: LabelsPatch { metadata, external_id } };
    Ok(axum::Json(app.update_concept(&caller, &concept, changes, &precondition).await?.into()))
}

/// Deletes a concept with its photos, and with the trainings, deltas, samples, evaluations and images that were made of it alone.
///
/// What another concept is part of as well, such as a merge or a joint training, and jobs that have not ended, depend on it: the
/// response is 409 and names them, unless `cascade=true` deletes them too. A worker that is busy with one of these jobs stops at
/// its next step. Files are deleted from the object store at once.
#[utoipa::path(delete, path = "/v1/concepts/{concept}", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle"), DeletionQuery, IfMatch),
    responses(
        (status = 200, body = DeletionBody, description = "Deleted, with what belonged to it"),
        (status = 404, body = Problem, content_type = "application/problem+json",
            description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`concept_in_use`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn delete_concept(
    State(app): State<App>,
    caller: Caller,
    Path(concept): Path<String>,
    Query(query): Query<DeletionQuery>,
    precondition: Precondition,
) -> Result<axum::Json<DeletionBody>, ApiError> {
    let removed = app.delete_concept(&caller, &concept, query.cascade, &precondition).await?;
    Ok(DeletionBody::new(concept, removed))
}
