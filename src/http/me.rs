//! What a caller is told about itself, and administrators about everybody.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::api_key::{ApiKeyBody, ProjectQuery};
use super::body::{List, ListBody, Timestamp};
use super::error::ApiError;
use super::extract::Query;
use super::project::{ProjectBody, QuotaBody};
use crate::app::{App, Caller};
use crate::domain::access::{AuditEntry, Scope, Usage};
use crate::domain::id::{ApiKeyId, AuditId, ProjectId};

/// Who the caller is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MeBody {
    #[schema(value_type = String, examples("me"))]
    object: &'static str,
    /// The caller's project.
    project: ProjectBody,
    /// The caller's key; null on a service that asks for none.
    key: Option<ApiKeyBody>,
    /// What the caller may do.
    scopes: Vec<Scope>,
}

/// What the caller's project has, counted from what exists.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageBody {
    #[schema(value_type = String, examples("usage"))]
    object: &'static str,
    project: ProjectId,
    /// The number of concepts.
    concepts: i64,
    /// The number of photos, uploads and generated images.
    images: i64,
    /// The number of image sets, without those of base models.
    image_sets: i64,
    /// The number of deltas.
    deltas: i64,
    /// Bytes of photos, images, image sets and deltas together.
    stored_bytes: i64,
    /// The number of jobs that wait.
    queued_jobs: i64,
    /// The number of jobs that run.
    running_jobs: i64,
    quotas: QuotaBody,
}

/// A change that somebody has made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AuditBody {
    id: AuditId,
    #[schema(value_type = String, examples("audit_entry"))]
    object: &'static str,
    /// The project in which it was made.
    project: ProjectId,
    /// The key with which it was made, which may be deleted by now; null on a service that asks for none.
    key: Option<ApiKeyId>,
    /// The method and the pattern of the path.
    #[schema(examples("POST /v1/concepts"))]
    operation: String,
    /// The path of what was changed or made.
    target: String,
    /// The HTTP status of the answer.
    status: i32,
    /// The id of the request, as its answer and the log have it.
    request_id: String,
    /// When it was answered.
    created_at: Timestamp,
}

impl From<AuditEntry> for AuditBody {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.audit_id,
            object: "audit_entry",
            project: entry.project_id,
            key: entry.key_id,
            operation: entry.operation,
            target: entry.object,
            status: entry.status,
            request_id: entry.request_id,
            created_at: entry.created_at.into(),
        }
    }
}

/// Returns who the caller is and what they may do.
#[utoipa::path(get, path = "/v1/me", tag = "keys",
    responses((status = 200, body = MeBody, description = "OK")))]
pub(crate) async fn get_me(
    State(app): State<App>,
    caller: Caller,
) -> Result<axum::Json<MeBody>, ApiError> {
    let project = app.project(&caller, caller.project_id()).await?.into();
    let key = app.own_key(&caller).await?.map(ApiKeyBody::from);
    let scopes = caller.scopes().iter().collect();
    Ok(axum::Json(MeBody { object: "me", project, key, scopes }))
}

/// Returns what the caller's project has and may have.
///
/// Everything is counted from what exists now, so what was deleted, failed or canceled counts no more.
#[utoipa::path(get, path = "/v1/usage", tag = "usage",
    responses((status = 200, body = UsageBody, description = "OK")))]
pub(crate) async fn get_usage(
    State(app): State<App>,
    caller: Caller,
) -> Result<axum::Json<UsageBody>, ApiError> {
    let (project, usage) = app.usage(&caller).await?;
    let Usage { concepts, images, image_sets, deltas, stored_bytes, queued_jobs, running_jobs } =
        usage;
    Ok(axum::Json(UsageBody {
        object: "usage",
        project: project.project_id,
        concepts,
        images,
        image_sets,
        deltas,
        stored_bytes,
        queued_jobs,
        running_jobs,
        quotas: project.quotas.into(),
    }))
}

/// Lists changes that were made, newest first.
///
/// An entry is written for every request that has changed something, before its answer is sent.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(ProjectQuery),
    responses((status = 200, body = ListBody<AuditBody>, description = "OK")))]
pub(crate) async fn list_changes(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ProjectQuery>,
) -> Result<List<AuditBody>, ApiError> {
    let changes = app.changes(&caller, query.project, query.page()?).await?;
    Ok(List::new(changes, |entry| entry.audit_id.0, AuditBody::from))
}
