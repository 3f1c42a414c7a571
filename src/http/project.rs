//! Projects and what they may have. For administrators.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::body::{List, ListBody, PageQuery, Timestamp, location};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use crate::app::project::ProjectChanges;
use crate::app::{App, Caller};
use crate::domain::access::{Project, Quotas};
use crate::domain::id::ProjectId;

/// A project to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateProject {
    /// A name for people, 1 to 100 characters. Several projects may have the same.
    name: String,
    /// The most concepts that the project may have. No limit if left out.
    #[schema(minimum = 0)]
    max_concepts: Option<i64>,
    /// The most bytes that its photos, images, image sets and deltas may have together. No limit if left out.
    #[schema(minimum = 0)]
    max_stored_bytes: Option<i64>,
    /// The most jobs that may wait or run at a time. No limit if left out.
    #[schema(minimum = 0)]
    max_active_jobs: Option<i64>,
}

/// Changes of a project. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeProject {
    /// A name for people, 1 to 100 characters.
    name: Option<String>,
    /// The most concepts that the project may have; null for no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0)]
    max_concepts: Option<Option<i64>>,
    /// The most bytes that its photos, images, image sets and deltas may have together; null for no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0)]
    max_stored_bytes: Option<Option<i64>>,
    /// The most jobs that may wait or run at a time; null for no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>, minimum = 0)]
    max_active_jobs: Option<Option<i64>>,
}

/// A field that is there, be it null.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A project: whose concepts, images and jobs are whose.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProjectBody {
    id: ProjectId,
    #[schema(value_type = String, examples("project"))]
    object: &'static str,
    /// A name for people.
    name: String,
    #[serde(flatten)]
    quotas: QuotaBody,
    /// When it was created.
    created_at: Timestamp,
}

/// What a project may have; null for no limit.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QuotaBody {
    /// Concepts.
    max_concepts: Option<i64>,
    /// Bytes of photos, images, image sets and deltas together.
    max_stored_bytes: Option<i64>,
    /// Jobs that wait or run at a time.
    max_active_jobs: Option<i64>,
}

impl From<Quotas> for QuotaBody {
    fn from(quotas: Quotas) -> Self {
        Self {
            max_concepts: quotas.max_concepts,
            max_stored_bytes: quotas.max_stored_bytes,
            max_active_jobs: quotas.max_active_jobs,
        }
    }
}

impl From<Project> for ProjectBody {
    fn from(project: Project) -> Self {
        Self {
            id: project.project_id,
            object: "project",
            name: project.name,
            quotas: project.quotas.into(),
            created_at: project.created_at.into(),
        }
    }
}

/// Creates a project.
///
/// Concepts, images and jobs belong to the project of the key that made them. To all others they do not exist.
#[utoipa::path(post, path = "/v1/projects", tag = "projects", request_body = CreateProject,
    responses(
        (status = 201, body = ProjectBody, headers(("location" = String)), description = "Created"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`missing_field`, `unknown_field`, `invalid_value`, `out_of_range`"),
    ))]
pub(crate) async fn create_project(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<CreateProject>,
) -> Result<impl IntoResponse, ApiError> {
    let CreateProject { name, max_concepts, max_stored_bytes, max_active_jobs } = body;
    let quotas = Quotas { max_concepts, max_stored_bytes, max_active_jobs };
    let body = ProjectBody::from(app.create_project(&caller, name, quotas).await?);
    Ok((StatusCode::CREATED, location(&format!("/v1/projects/{}", body.id)), axum::Json(body)))
}

/// Lists projects, newest first.
#[utoipa::path(get, path = "/v1/projects", tag = "projects", params(PageQuery),
    responses((status = 200, body = ListBody<ProjectBody>, description = "OK")))]
pub(crate) async fn list_projects(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<List<ProjectBody>, ApiError> {
    let page = app.projects(&caller, query.page()?).await?;
    Ok(List::new(page, |project| project.project_id.0, ProjectBody::from))
}

/// Returns a project.
#[utoipa::path(get, path = "/v1/projects/{project_id}", tag = "projects",
    params(("project_id" = ProjectId, Path, description = "Id of the project")),
    responses(
        (status = 200, body = ProjectBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
    ))]
pub(crate) async fn get_project(
    State(app): State<App>,
    caller: Caller,
    Path(project_id): Path<ProjectId>,
) -> Result<axum::Json<ProjectBody>, ApiError> {
    Ok(axum::Json(app.project(&caller, project_id).await?.into()))
}

/// Changes the name or the quotas of a project.
///
/// What a project has above a new quota stays, and nothing can be added until there is room.
#[utoipa::path(patch, path = "/v1/projects/{project_id}", tag = "projects",
    params(("project_id" = ProjectId, Path, description = "Id of the project")), request_body = ChangeProject,
    responses(
        (status = 200, body = ProjectBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_field`, `invalid_value`, `out_of_range`"),
    ))]
pub(crate) async fn change_project(
    State(app): State<App>,
    caller: Caller,
    Path(project_id): Path<ProjectId>,
    Json(body): Json<ChangeProject>,
) -> Result<axum::Json<ProjectBody>, ApiError> {
    let ChangeProject { name, max_concepts, max_stored_bytes, max_active_jobs } = body;
    let changes = ProjectChanges { name, max_concepts, max_stored_bytes, max_active_jobs };
    Ok(axum::Json(app.change_project(&caller, project_id, changes).await?.into()))
}
