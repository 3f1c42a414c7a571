//! Concepts: what users teach.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{ListBody, ListQuery, Timestamp, location};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use crate::app::concept::{CountedConcept, NewConcept};
use crate::app::{App, Caller};
use crate::domain::concept::{ClassNoun, ConceptWords, Handle, ModifierToken};
use crate::domain::id::{ConceptId, DeltaId};

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
}

impl From<CreateConcept> for NewConcept {
    fn from(body: CreateConcept) -> Self {
        let CreateConcept { handle, modifier_token, class_noun } = body;
        Self { handle, words: ConceptWords { modifier_token, class_noun } }
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
    /// The delta that a prompt uses when it names the concept: the result of the newest training that has succeeded. Null
    /// before the first.
    current_delta: Option<DeltaId>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<CountedConcept> for ConceptBody {
    fn from(CountedConcept { concept, image_count }: CountedConcept) -> Self {
        Self {
            id: concept.concept_id,
            object: "concept",
            handle: concept.handle,
            words: concept.words,
            image_count,
            current_delta: concept.current_delta,
            created_at: concept.created_at.into(),
            updated_at: concept.updated_at.into(),
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
            description = "`handle_taken`, `modifier_token_taken`"),
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
#[utoipa::path(get, path = "/v1/concepts", tag = "concepts", params(ListQuery),
    responses(
        (status = 200, body = ListBody<ConceptBody>, description = "OK"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`missing_field`, `unknown_field`, `invalid_value`, `out_of_range`, …"),
    ))]
pub(crate) async fn list_concepts(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<ListBody<ConceptBody>>, ApiError> {
    let page = app.concepts(&caller, query.page()?).await?;
    let id = |counted: &CountedConcept| counted.concept.concept_id.0;
    Ok(axum::Json(ListBody::new(page, id, ConceptBody::from)))
}
