//! Models of the OpenAI door: the base model, and what was made of it.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::OpenAiError;
use crate::app::delta::{DeltaContents, WantedDeltas};
use crate::app::{App, Caller, Refusal};
use crate::domain::code::Code;
use crate::domain::concept::{Concept, ConceptRef};
use crate::domain::delta_use::ConceptUse;
use crate::domain::id::DeltaId;
use crate::domain::invalid::FieldError;
use crate::domain::page::Page;
use crate::domain::search::SearchText;
use crate::http::error::ApiError;
use crate::http::extract::Path;

/// The most concepts and the most deltas that are listed: the newest.
const MOST_LISTED: i64 = 100;

/// Something that draws images.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelBody {
    /// To be sent as `model`: the base model's name, a concept's handle or a delta's id.
    #[schema(examples("rex"))]
    id: String,
    #[schema(value_type = String, examples("model"))]
    object: &'static str,
    /// When it was made, in seconds since 1970. 0 for the base model.
    created: i64,
    /// Always `vstar`.
    #[schema(value_type = String)]
    owned_by: &'static str,
    /// Not in OpenAI's API. How a prompt names the concepts that the model brings in.
    names: Vec<String>,
}

/// Models, in the form of OpenAI's API.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelList {
    #[schema(value_type = String, examples("list"))]
    object: &'static str,
    /// The base model, then concepts with a delta, then deltas, each the newest first.
    data: Vec<ModelBody>,
}

impl ModelBody {
    fn new(id: String, created: i64, names: Vec<String>) -> Self {
        Self { id, object: "model", created, owned_by: "vstar", names }
    }

    fn of_base(app: &App) -> Self {
        Self::new(app.model().name.clone(), 0, Vec::new())
    }

    fn of_concept(concept: &Concept) -> Self {
        let names = vec![concept.words.in_prompt()];
        Self::new(concept.handle.to_string(), concept.created_at.timestamp(), names)
    }

    fn of_delta(contents: &DeltaContents) -> Self {
        let names = contents.concepts.iter().map(|concept| concept.words.in_prompt()).collect();
        let delta = &contents.delta;
        Self::new(delta.delta_id.to_string(), delta.created_at.timestamp(), names)
    }
}

/// What a request names as its model.
enum Model {
    Base,
    Concept(Box<Concept>),
    Delta(Box<DeltaContents>),
}

impl Model {
    async fn find(app: &App, caller: &Caller, name: &str) -> Result<Self, ApiError> {
        if name == app.model().name {
            return Ok(Self::Base);
        }
        let unknown = |refusal: Refusal| match refusal {
            Refusal::NotFound { .. } => {
                let name: String = name.chars().take(100).collect();
                let detail =
                    format!("no model `{name}`: GET /openai/v1/models lists those that there are");
                FieldError::new("/model", Code::UnknownModel, detail).into()
            }
            other => other,
        };
        if let Ok(delta) = name.parse::<DeltaId>() {
            let found = app.delta(caller, delta).await.map_err(unknown)?;
            return Ok(Self::Delta(Box::new(found)));
        }
        let concept = app.find_concept(caller, name).await.map_err(unknown)?;
        Ok(Self::Concept(Box::new(concept)))
    }
}

/// What a model brings into a sample.
pub(super) async fn uses_of(
    app: &App,
    caller: &Caller,
    model: Option<&str>,
) -> Result<Vec<ConceptUse>, ApiError> {
    let Some(name) = model else { return Ok(Vec::new()) };
    let (concept, delta) = match Model::find(app, caller, name).await? {
        Model::Base => return Ok(Vec::new()),
        Model::Concept(concept) => (Some(ConceptRef::Id(concept.concept_id)), None),
        Model::Delta(contents) => (None, Some(contents.delta.delta_id)),
    };
    Ok(vec![ConceptUse { concept, delta, strength: None }])
}

/// Lists what images can be drawn with: the base model, the newest trained concepts and the newest deltas, at most 100 of
/// each.
#[utoipa::path(get, path = "/openai/v1/models", tag = "openai",
    responses((status = 200, body = ModelList, description = "OK")))]
pub(crate) async fn list_models(
    State(app): State<App>,
    caller: Caller,
) -> Result<axum::Json<ModelList>, ApiError> {
    let page = Page::newest(MOST_LISTED);
    let concepts = app.concepts(&caller, &SearchText::default(), None, page).await?;
    let deltas = app.deltas(&caller, WantedDeltas::default(), page).await?;
    let trained = concepts.items.iter().filter(|one| one.concept.current_delta.is_some());
    let of_base = std::iter::once(ModelBody::of_base(&app));
    let data = of_base
        .chain(trained.map(|one| ModelBody::of_concept(&one.concept)))
        .chain(deltas.items.iter().map(ModelBody::of_delta))
        .collect();
    Ok(axum::Json(ModelList { object: "list", data }))
}

/// Returns one model.
#[utoipa::path(get, path = "/openai/v1/models/{model}", tag = "openai",
    params(("model" = String, Path, description = "The base model's name, a concept's id or handle, or a delta's id")),
    responses(
        (status = 200, body = ModelBody, description = "OK"),
        (status = 404, body = OpenAiError, description = "`model_not_found`"),
    ))]
pub(crate) async fn get_model(
    State(app): State<App>,
    caller: Caller,
    Path(model): Path<String>,
) -> Result<axum::Json<ModelBody>, ApiError> {
    Ok(axum::Json(match Model::find(&app, &caller, &model).await? {
        Model::Base => ModelBody::of_base(&app),
        Model::Concept(concept) => ModelBody::of_concept(&concept),
        Model::Delta(contents) => ModelBody::of_delta(&contents),
    }))
}
