//! Concepts: what users teach.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{ListBody, ListQuery, Timestamp, location};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use crate::app::App;
use crate::db;
use crate::domain::code::Code;
use crate::domain::concept::{ClassNoun, Concept, ConceptRef, ConceptWords, Handle, ModifierToken};
use crate::domain::id::{ConceptId, DeltaId};
use crate::domain::invalid::FieldError;

/// A concept to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateConcept {
    /// The concept's name in requests, unique.
    handle: Handle,
    /// The word that will stand for the concept in prompts, before the class noun: `photo of a <rex> dog`. Leave it
    /// out to teach a class that the base model does not know; the class noun itself then stands for it.
    modifier_token: Option<ModifierToken>,
    /// The ordinary word for what it is.
    class_noun: ClassNoun,
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
    /// Number of photos.
    image_count: i64,
    /// What a prompt gets that names the concept: the newest training's result, or null before the first.
    current_delta: Option<DeltaId>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl ConceptBody {
    fn new(concept: Concept, image_counts: &[(ConceptId, i64)]) -> Self {
        let count = image_counts.iter().find(|(id, _)| *id == concept.concept_id);
        Self {
            id: concept.concept_id,
            object: "concept",
            handle: concept.handle,
            words: concept.words,
            image_count: count.map_or(0, |(_, count)| *count),
            current_delta: concept.current_delta,
            created_at: concept.created_at.into(),
            updated_at: concept.updated_at.into(),
        }
    }
}

/// Creates a concept without photos.
///
/// Add at least four with `POST /v1/concepts/{concept_id}/images`, then train it.
#[utoipa::path(post, path = "/v1/concepts", tag = "concepts", request_body = CreateConcept,
    responses(
        (status = 201, body = ConceptBody, headers(("location" = String))),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`handle_taken`, `modifier_token_taken`"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn create_concept(
    State(app): State<App>,
    Json(body): Json<CreateConcept>,
) -> Result<impl IntoResponse, ApiError> {
    let words = ConceptWords {
        modifier_token: body.modifier_token.clone(),
        class_noun: body.class_noun.clone(),
    };
    let concept = db::concept::create(&app.db, ConceptId::generate(), &body.handle, &words)
        .await
        .map_err(|error| refuse_taken_names(error, &body))?;

    let place = location(&format!("/v1/concepts/{}", concept.concept_id));
    Ok((StatusCode::CREATED, place, axum::Json(ConceptBody::new(concept, &[]))))
}

fn refuse_taken_names(error: sqlx::Error, body: &CreateConcept) -> ApiError {
    let conflict =
        |pointer, code, detail| ApiError::Conflict(FieldError::new(pointer, code, detail));
    match (db::broken_constraint(&error), &body.modifier_token) {
        (Some(db::concept::HANDLE_IS_UNIQUE), _) => conflict(
            "/handle",
            Code::HandleTaken,
            format!("`{}` is taken: choose another handle", body.handle),
        ),
        (Some(db::concept::MODIFIER_TOKEN_IS_UNIQUE), Some(token)) => conflict(
            "/modifier_token",
            Code::ModifierTokenTaken,
            format!("`{token}` stands for another concept: choose another word"),
        ),
        _ => error.into(),
    }
}

/// Returns a concept.
#[utoipa::path(get, path = "/v1/concepts/{concept}", tag = "concepts",
    params(("concept" = String, Path, description = "Id or handle")),
    responses(
        (status = 200, body = ConceptBody),
        (status = 404, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn get_concept(
    State(app): State<App>,
    Path(concept): Path<String>,
) -> Result<axum::Json<ConceptBody>, ApiError> {
    let concept = find_one(&app, &concept).await?;
    let counts = db::image::count_of_concepts(&app.db, &[concept.concept_id]).await?;
    Ok(axum::Json(ConceptBody::new(concept, &counts)))
}

/// Lists concepts, newest first.
#[utoipa::path(get, path = "/v1/concepts", tag = "concepts", params(ListQuery),
    responses(
        (status = 200, body = ListBody<ConceptBody>),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn list_concepts(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<axum::Json<ListBody<ConceptBody>>, ApiError> {
    let concepts = db::concept::list(&app.db, query.page()?).await?;
    let ids: Vec<ConceptId> = concepts.iter().map(|concept| concept.concept_id).collect();
    let counts = db::image::count_of_concepts(&app.db, &ids).await?;
    let body = |concept| ConceptBody::new(concept, &counts);
    Ok(axum::Json(ListBody::new(concepts, &query, |concept| concept.concept_id.0, body)))
}

/// Finds a concept by what stands in a path.
pub(crate) async fn find_one(app: &App, text: &str) -> Result<Concept, ApiError> {
    let missing = || ApiError::not_found("concept", text);
    let wanted = ConceptRef::try_from(text.to_owned()).map_err(|_| missing())?;
    let found = match wanted {
        ConceptRef::Id(id) => db::concept::find(&app.db, &[id], &[], &[]).await?,
        ConceptRef::Handle(handle) => {
            db::concept::find(&app.db, &[], &[handle.as_str().to_owned()], &[]).await?
        }
    };
    found.into_iter().next().ok_or_else(missing)
}
