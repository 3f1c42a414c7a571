//! Keys of the API. For administrators.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::body::{List, ListBody, Timestamp, location, page};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::record::DeletionBody;
use crate::app::api_key::{IssuedKey, NewApiKey};
use crate::app::{App, Caller};
use crate::domain::access::{ApiKey, Scope, shown_prefix};
use crate::domain::id::{ApiKeyId, ProjectId};

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateApiKey {
    /// A name for people, 1 to 100 characters: who has the key, and for what.
    name: String,
    /// The project that the key works for. The caller's own if left out.
    project: Option<ProjectId>,
    /// What the key may do, at least one scope.
    #[schema(min_items = 1)]
    scopes: Vec<Scope>,
    /// When it stops being good. Never if left out.
    expires_at: Option<DateTime<Utc>>,
}

/// How to rotate a key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateApiKey {
    /// For how many seconds the former secret stays good, from 0 to 604800 (a week). A day if left out.
    #[schema(minimum = 0, maximum = 604_800)]
    overlap_seconds: Option<u64>,
}

/// A key of the API, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApiKeyBody {
    id: ApiKeyId,
    #[schema(value_type = String, examples("api_key"))]
    object: &'static str,
    /// A name for people.
    name: String,
    /// The project that the key works for.
    project: ProjectId,
    /// How the key begins, which is no secret.
    #[schema(examples("vstar_x7Qp2mKd"))]
    prefix: String,
    /// What it may do.
    scopes: Vec<Scope>,
    /// When it stops being good; null for never.
    expires_at: Option<Timestamp>,
    /// When it was used last, to the minute; null for never.
    last_used_at: Option<Timestamp>,
    /// Until when the secret before the last rotation is good as well; null if there is none.
    previous_secret_until: Option<Timestamp>,
    /// When it was made.
    created_at: Timestamp,
}

/// A key that was just made or rotated, with its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct IssuedKeyBody {
    #[serde(flatten)]
    key: ApiKeyBody,
    /// The whole key, to be sent as `Authorization: Bearer`. It is shown this once and stored nowhere, so it is null if the
    /// same request is sent again with its `Idempotency-Key`.
    secret: Option<String>,
}

impl From<ApiKey> for ApiKeyBody {
    fn from(key: ApiKey) -> Self {
        let is_live = |until: &DateTime<Utc>| *until > Utc::now();
        Self {
            id: key.key_id,
            object: "api_key",
            name: key.name,
            project: key.project_id,
            prefix: shown_prefix(&key.public_id),
            scopes: key.scopes.iter().collect(),
            expires_at: key.expires_at.map(Timestamp),
            last_used_at: key.last_used_at.map(Timestamp),
            previous_secret_until: key.previous_until.filter(is_live).map(Timestamp),
            created_at: key.created_at.into(),
        }
    }
}

impl From<IssuedKey> for IssuedKeyBody {
    fn from(issued: IssuedKey) -> Self {
        Self { key: issued.key.into(), secret: Some(issued.text) }
    }
}

/// Which keys to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProjectQuery {
    /// The maximum number of items to return, from 1 to 100. Defaults to 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// The `next_cursor` of the previous page. Without it, the list starts with the newest item.
    after: Option<String>,
    /// Return only those of this project.
    pub(super) project: Option<ProjectId>,
}

impl ProjectQuery {
    pub(super) fn page(&self) -> Result<crate::domain::page::Page, ApiError> {
        Ok(page(self.limit, self.after.as_deref())?)
    }
}

/// Makes a key.
///
/// The answer has the whole key, this once. The service stores only what it needs to recognize it.
#[utoipa::path(post, path = "/v1/api-keys", tag = "keys", request_body = CreateApiKey,
    responses(
        (status = 201, body = IssuedKeyBody, headers(("location" = String)), description = "Created"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "`keys_not_in_use`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`missing_field`, `unknown_field`, `invalid_value`, `out_of_range`"),
    ))]
pub(crate) async fn create_api_key(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<CreateApiKey>,
) -> Result<impl IntoResponse, ApiError> {
    let CreateApiKey { name, project: project_id, scopes, expires_at } = body;
    let new = NewApiKey { name, project_id, scopes, expires_at };
    let body = IssuedKeyBody::from(app.create_api_key(&caller, new).await?);
    let path = format!("/v1/api-keys/{}", body.key.id);
    Ok((StatusCode::CREATED, location(&path), axum::Json(body)))
}

/// Lists keys, newest first, without their secrets.
#[utoipa::path(get, path = "/v1/api-keys", tag = "keys", params(ProjectQuery),
    responses((status = 200, body = ListBody<ApiKeyBody>, description = "OK")))]
pub(crate) async fn list_api_keys(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<ProjectQuery>,
) -> Result<List<ApiKeyBody>, ApiError> {
    let keys = app.api_keys(&caller, query.project, query.page()?).await?;
    Ok(List::new(keys, |key| key.key_id.0, ApiKeyBody::from))
}

/// Returns a key without its secret.
#[utoipa::path(get, path = "/v1/api-keys/{key_id}", tag = "keys",
    params(("key_id" = ApiKeyId, Path, description = "Id of the key")),
    responses(
        (status = 200, body = ApiKeyBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
    ))]
pub(crate) async fn get_api_key(
    State(app): State<App>,
    caller: Caller,
    Path(key_id): Path<ApiKeyId>,
) -> Result<axum::Json<ApiKeyBody>, ApiError> {
    Ok(axum::Json(app.api_key(&caller, key_id).await?.into()))
}

/// Gives a key a new secret.
///
/// The former one stays good for a while, so that both are live until every program has the new one. Of a key that is
/// rotated again meanwhile, only the newest two are.
#[utoipa::path(post, path = "/v1/api-keys/{key_id}/rotate", tag = "keys",
    params(("key_id" = ApiKeyId, Path, description = "Id of the key")), request_body = RotateApiKey,
    responses(
        (status = 200, body = IssuedKeyBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "`keys_not_in_use`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_field`, `out_of_range`"),
    ))]
pub(crate) async fn rotate_api_key(
    State(app): State<App>,
    caller: Caller,
    Path(key_id): Path<ApiKeyId>,
    Json(body): Json<RotateApiKey>,
) -> Result<axum::Json<IssuedKeyBody>, ApiError> {
    Ok(axum::Json(app.rotate_api_key(&caller, key_id, body.overlap_seconds).await?.into()))
}

/// Deletes a key. Whoever has it is refused within ten seconds, and so are client tokens that were made with it.
#[utoipa::path(delete, path = "/v1/api-keys/{key_id}", tag = "keys",
    params(("key_id" = ApiKeyId, Path, description = "Id of the key")),
    responses(
        (status = 200, body = DeletionBody, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
    ))]
pub(crate) async fn delete_api_key(
    State(app): State<App>,
    caller: Caller,
    Path(key_id): Path<ApiKeyId>,
) -> Result<axum::Json<DeletionBody>, ApiError> {
    let removed = app.delete_api_key(&caller, key_id).await?;
    Ok(DeletionBody::new(key_id, removed))
}
