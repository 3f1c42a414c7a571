//! Webhook endpoints: where a project is told of events.

pub(super) mod delivery;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{List, ListBody, PageQuery, Timestamp, location};
use super::error::{ApiError, Problem};
use super::extract::{Json, Path, Query};
use super::precondition::IfMatch;
use super::record::{DeletionBody, MergePatch, RecordBody, present};
use crate::app::webhook::{EndpointChange, NewEndpoint};
use crate::app::{App, Caller, Precondition};
use crate::domain::code::Code;
use crate::domain::id::{ProjectId, WebhookEndpointId};
use crate::domain::invalid::FieldError;
use crate::domain::record::{ExternalId, Labels, LabelsPatch, Metadata};
use crate::domain::webhook::secret::WebhookSecret;
use crate::domain::webhook::{EventType, WebhookEndpoint};

/// For answers with a secret.
const NOT_KEPT: [(HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

/// A webhook endpoint to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateWebhookEndpoint {
    /// Where events are sent by `POST`: https on port 443 or 8443, on a public address, at most 2048 characters, without user
    /// name, password or fragment.
    #[schema(examples("https://example.com/webhooks/vstar"), max_length = 2048)]
    url: String,
    /// What the endpoint is for, at most 500 characters. Not interpreted.
    #[schema(max_length = 500)]
    description: Option<String>,
    /// The types of events to send. All of them, those of later versions included, if this is left out.
    #[schema(min_items = 1)]
    event_types: Option<Vec<EventType>>,
    /// Whether events are sent. Defaults to true.
    enabled: Option<bool>,
    /// The secret that deliveries are signed with: `whsec_` and 24 to 64 bytes in base64. One is made if this is left out.
    secret: Option<String>,
    /// Texts of your own: at most 16, with keys of up to 64 and values of up to 512 characters. Returned as they are. Defaults to
    /// none.
    metadata: Option<Metadata>,
    /// Your own id for it, of up to 255 characters. A second webhook endpoint with the same one is refused. Defaults to none.
    external_id: Option<ExternalId>,
}

/// What to change of a webhook endpoint. A field that is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeWebhookEndpoint {
    /// Where events are sent, as at creation.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// What the endpoint is for, at most 500 characters. Null removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>, max_length = 500)]
    description: Option<Option<String>>,
    /// The types of events to send. Null means all.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<Vec<EventType>>, min_items = 1)]
    event_types: Option<Option<Vec<EventType>>>,
    /// Whether events are sent. While it is false, events are not kept for later, and what was still to be sent ends as
    /// `canceled`.
    enabled: Option<bool>,
    /// Entries to add or to replace; an entry that is null is removed. Null removes all entries.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<std::collections::HashMap<String, Option<String>>>)]
    metadata: Option<Option<BTreeMap<String, Option<String>>>>,
    /// Another id of your own, of up to 255 characters. Null removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    external_id: Option<Option<ExternalId>>,
}

impl TryFrom<CreateWebhookEndpoint> for NewEndpoint {
    type Error = FieldError;

    fn try_from(body: CreateWebhookEndpoint) -> Result<Self, FieldError> {
        let CreateWebhookEndpoint {
            url,
            description,
            event_types,
            enabled,
            secret,
            metadata,
            external_id,
        } = body;
        let labels = Labels { metadata: metadata.unwrap_or_default(), external_id };
        let secret = secret
            .map(WebhookSecret::try_from)
            .transpose()
            .map_err(|error| FieldError::new("/secret", Code::InvalidValue, error.to_string()))?;
        Ok(Self { url, description, event_types, enabled: enabled.unwrap_or(true), secret, labels })
    }
}

impl From<ChangeWebhookEndpoint> for EndpointChange {
    fn from(body: ChangeWebhookEndpoint) -> Self {
        let ChangeWebhookEndpoint { url, description, event_types, enabled, metadata, external_id } =
            body;
        let labels = LabelsPatch { metadata, external_id };
        Self { url, description, event_types, enabled, labels }
    }
}

/// A place that is told of a project's events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhookEndpointBody {
    id: WebhookEndpointId,
    #[schema(value_type = String, examples("webhook_endpoint"))]
    object: &'static str,
    /// The project whose events are sent.
    project_id: ProjectId,
    /// Where events are sent by `POST`.
    url: String,
    /// What the endpoint is for. Not interpreted.
    description: Option<String>,
    /// The types of events that are sent. Null means all.
    event_types: Option<Vec<EventType>>,
    /// Whether events are sent.
    enabled: bool,
    /// Why the service has disabled the endpoint: its receiver answered 410, or every delivery failed for five days. Null if
    /// it has not.
    disabled_reason: Option<String>,
    /// Since when every delivery has failed. Null if the last one succeeded.
    failing_since: Option<Timestamp>,
    /// The secret that deliveries are signed with. Only in the answers to its creation and rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// Until when deliveries are also signed with the secret before this one.
    previous_secret_until: Option<Timestamp>,
    created_at: Timestamp,
    #[serde(flatten)]
    record: RecordBody,
}

impl From<WebhookEndpoint> for WebhookEndpointBody {
    fn from(endpoint: WebhookEndpoint) -> Self {
        let previous = endpoint.previous_secret_until.filter(|until| *until > chrono::Utc::now());
        Self {
            id: endpoint.endpoint_id,
            object: "webhook_endpoint",
            project_id: endpoint.project_id,
            url: endpoint.url,
            description: endpoint.description,
            event_types: endpoint.event_types,
            enabled: endpoint.enabled,
            disabled_reason: endpoint.disabled_reason,
            failing_since: endpoint.failing_since.map(Timestamp::from),
            secret: None,
            previous_secret_until: previous.map(Timestamp::from),
            created_at: endpoint.created_at.into(),
            record: endpoint.record.into(),
        }
    }
}

impl WebhookEndpointBody {
    fn with_secret(endpoint: WebhookEndpoint) -> Self {
        let secret = Some(endpoint.secret.reveal().to_owned());
        Self { secret, ..Self::from(endpoint) }
    }
}

/// Creates a webhook endpoint.
///
/// Events of the project are sent there by `POST`, signed as the [Standard Webhooks](https://www.standardwebhooks.com)
/// specification says. The answer contains the secret to verify them with; it is not shown again.
///
/// Each event is sent at least once, in no particular order, until the receiver answers 2xx within 15 seconds: at once, and
/// after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h. Redirects are not followed. `webhook-id` is the same at each
/// attempt, so that a receiver can recognize what it has. An endpoint that answers 410, or fails for five days, is
/// disabled.
#[utoipa::path(post, path = "/v1/webhook-endpoints", tag = "webhooks", request_body = CreateWebhookEndpoint,
    responses(
        (status = 201, body = WebhookEndpointBody, headers(("location" = String)), description = "Created"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`too_many_webhook_endpoints`, `external_id_taken`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`webhook_url_refused`, `missing_field`, `unknown_field`, `invalid_value`, `out_of_range`"),
    ))]
pub(crate) async fn create_webhook_endpoint(
    State(app): State<App>,
    caller: Caller,
    Json(body): Json<CreateWebhookEndpoint>,
) -> Result<impl IntoResponse, ApiError> {
    let endpoint = app.create_webhook_endpoint(&caller, body.try_into()?).await?;
    let path = format!("/v1/webhook-endpoints/{}", endpoint.endpoint_id);
    let body = WebhookEndpointBody::with_secret(endpoint);
    Ok((StatusCode::CREATED, location(&path), NOT_KEPT, axum::Json(body)))
}

/// Lists webhook endpoints, newest first.
#[utoipa::path(get, path = "/v1/webhook-endpoints", tag = "webhooks", params(PageQuery),
    responses(
        (status = 200, body = ListBody<WebhookEndpointBody>, description = "OK"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_field`, `invalid_value`, `out_of_range`, `invalid_cursor`"),
    ))]
pub(crate) async fn list_webhook_endpoints(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<List<WebhookEndpointBody>, ApiError> {
    let page = app.webhook_endpoints(&caller, query.page()?).await?;
    let id = |endpoint: &WebhookEndpoint| endpoint.endpoint_id.0;
    Ok(List::new(page, id, WebhookEndpointBody::from))
}

/// Returns a webhook endpoint.
#[utoipa::path(get, path = "/v1/webhook-endpoints/{endpoint_id}", tag = "webhooks",
    params(("endpoint_id" = WebhookEndpointId, Path)),
    responses(
        (status = 200, body = WebhookEndpointBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
    ))]
pub(crate) async fn get_webhook_endpoint(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WebhookEndpointId>,
) -> Result<axum::Json<WebhookEndpointBody>, ApiError> {
    Ok(axum::Json(app.webhook_endpoint(&caller, id).await?.into()))
}

/// Changes a webhook endpoint.
///
/// `"enabled": true` also makes an endpoint work again that the service has disabled.
#[utoipa::path(patch, path = "/v1/webhook-endpoints/{endpoint_id}", tag = "webhooks",
    params(("endpoint_id" = WebhookEndpointId, Path), IfMatch), request_body = ChangeWebhookEndpoint,
    responses(
        (status = 200, body = WebhookEndpointBody, description = "Changed"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`external_id_taken`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`webhook_url_refused`, `unknown_field`, `invalid_value`, `out_of_range`"),
    ))]
pub(crate) async fn change_webhook_endpoint(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WebhookEndpointId>,
    precondition: Precondition,
    MergePatch(body): MergePatch<ChangeWebhookEndpoint>,
) -> Result<axum::Json<WebhookEndpointBody>, ApiError> {
    let changed = app.change_webhook_endpoint(&caller, id, &precondition, body.into()).await?;
    Ok(axum::Json(changed.into()))
}

/// Deletes a webhook endpoint with the log of its deliveries. What was still to be sent is not sent.
#[utoipa::path(delete, path = "/v1/webhook-endpoints/{endpoint_id}", tag = "webhooks",
    params(("endpoint_id" = WebhookEndpointId, Path), IfMatch),
    responses(
        (status = 200, body = DeletionBody, description = "Deleted"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
        (status = 412, body = Problem, content_type = "application/problem+json",
            description = "`precondition_failed`"),
    ))]
pub(crate) async fn delete_webhook_endpoint(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WebhookEndpointId>,
    precondition: Precondition,
) -> Result<axum::Json<DeletionBody>, ApiError> {
    let removed = app.delete_webhook_endpoint(&caller, id, &precondition).await?;
    Ok(DeletionBody::new(id, removed))
}

/// Gives a webhook endpoint a new secret.
///
/// The answer contains it; it is not shown again. For 24 hours, deliveries have two signatures, with the new secret and with the
/// one before, so that a receiver can change over at any time.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{endpoint_id}/rotate-secret", tag = "webhooks",
    params(("endpoint_id" = WebhookEndpointId, Path)),
    responses(
        (status = 200, body = WebhookEndpointBody, description = "Changed"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
    ))]
pub(crate) async fn rotate_webhook_secret(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WebhookEndpointId>,
) -> Result<impl IntoResponse, ApiError> {
    let endpoint = app.rotate_webhook_secret(&caller, id).await?;
    Ok((NOT_KEPT, axum::Json(WebhookEndpointBody::with_secret(endpoint))))
}
