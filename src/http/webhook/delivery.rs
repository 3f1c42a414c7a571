//! The log of what was sent to a webhook endpoint, and sending on request.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::body::{List, ListBody, Timestamp, location, page};
use super::super::error::{ApiError, Problem};
use super::super::extract::{Path, Query};
use crate::app::{App, Caller};
use crate::domain::id::{WebhookDeliveryId, WebhookEndpointId};
use crate::domain::webhook::delivery::{DeliveryStatus, WebhookAttempt, WebhookDelivery};

/// One event on its way to a webhook endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhookDeliveryBody {
    /// Also the header `webhook-id` of every attempt.
    id: WebhookDeliveryId,
    #[schema(value_type = String, examples("webhook_delivery"))]
    object: &'static str,
    endpoint_id: WebhookEndpointId,
    /// What happened.
    #[schema(examples("training.succeeded"))]
    event_type: String,
    /// The id of what the event is about.
    #[schema(examples("trn_01kb0000000000000000000000"))]
    object_id: String,
    status: DeliveryStatus,
    /// Why it was given up. Null if it was not.
    reason: Option<String>,
    /// The attempts so far, in order.
    attempts: Vec<WebhookAttemptBody>,
    /// When the next attempt is made. Null if there is none.
    next_attempt_at: Option<Timestamp>,
    /// When the event happened.
    created_at: Timestamp,
    /// When the delivery succeeded or was given up.
    finished_at: Option<Timestamp>,
}

/// One request to a receiver and its answer.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhookAttemptBody {
    /// Counted from 1. A number is missing if the process was stopped in that attempt.
    attempt: i32,
    started_at: Timestamp,
    /// From the resolution of the receiver's name to the end of its answer, in milliseconds.
    duration_ms: i32,
    /// The HTTP status of the answer. Null if there was no answer.
    status_code: Option<i32>,
    /// Why the attempt does not count as delivered. Null if it does.
    error: Option<String>,
    /// The beginning of the answer's body, at most 500 characters. Null if it was empty.
    answer: Option<String>,
}

impl From<WebhookAttempt> for WebhookAttemptBody {
    fn from(attempt: WebhookAttempt) -> Self {
        Self {
            attempt: attempt.attempt,
            started_at: attempt.started_at.into(),
            duration_ms: attempt.duration_ms,
            status_code: attempt.status_code,
            error: attempt.error,
            answer: attempt.answer,
        }
    }
}

impl From<WebhookDelivery> for WebhookDeliveryBody {
    fn from(delivery: WebhookDelivery) -> Self {
        Self {
            id: delivery.delivery_id,
            object: "webhook_delivery",
            endpoint_id: delivery.endpoint_id,
            object_id: delivery.event.published_object_id(),
            event_type: delivery.event.event_type,
            status: delivery.status,
            reason: delivery.reason,
            attempts: delivery.attempts.into_iter().map(WebhookAttemptBody::from).collect(),
            next_attempt_at: delivery.next_attempt_at.map(Timestamp::from),
            created_at: delivery.event.occurred_at.into(),
            finished_at: delivery.finished_at.map(Timestamp::from),
        }
    }
}

/// Which deliveries to return.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeliveryQuery {
    /// The maximum number of items to return, from 1 to 100. Defaults to 20.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// The `next_cursor` of the previous page. Without it, the list starts at its beginning.
    after: Option<String>,
    /// Return only deliveries with this status.
    #[param(inline)]
    status: Option<DeliveryStatus>,
}

/// The answer to a request that has queued a delivery before, as it is now.
pub(in crate::http) async fn queued_before(
    app: &App,
    caller: &Caller,
    id: WebhookDeliveryId,
) -> Result<Response, ApiError> {
    let delivery = app.webhook_delivery(caller, None, id).await?;
    let location = location(&path(&delivery));
    let body = axum::Json(WebhookDeliveryBody::from(delivery));
    Ok((StatusCode::ACCEPTED, location, body).into_response())
}

fn path(delivery: &WebhookDelivery) -> String {
    let WebhookDelivery { endpoint_id, delivery_id, .. } = delivery;
    format!("/v1/webhook-endpoints/{endpoint_id}/deliveries/{delivery_id}")
}

/// Sends a test event to a webhook endpoint.
///
/// Its type is `webhook.test`, and it is signed, retried and logged as all others. The answer is sent before the delivery is.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{endpoint_id}/test", tag = "webhooks",
    params(("endpoint_id" = WebhookEndpointId, Path)),
    responses(
        (status = 202, body = WebhookDeliveryBody, headers(("location" = String)), description = "Queued"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`webhook_endpoint_disabled`"),
    ))]
pub(crate) async fn test_webhook(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WebhookEndpointId>,
) -> Result<impl IntoResponse, ApiError> {
    let delivery = app.test_webhook(&caller, id).await?;
    let location = location(&path(&delivery));
    Ok((StatusCode::ACCEPTED, location, axum::Json(WebhookDeliveryBody::from(delivery))))
}

/// Lists the deliveries to a webhook endpoint with their attempts, newest first.
///
/// Deliveries are kept for 30 days after they have ended.
#[utoipa::path(get, path = "/v1/webhook-endpoints/{endpoint_id}/deliveries", tag = "webhooks",
    params(("endpoint_id" = WebhookEndpointId, Path), DeliveryQuery),
    responses(
        (status = 200, body = ListBody<WebhookDeliveryBody>, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
        (status = 422, body = Problem, content_type = "application/problem+json",
            description = "`unknown_field`, `invalid_value`, `out_of_range`, `invalid_cursor`"),
    ))]
pub(crate) async fn list_webhook_deliveries(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<WebhookEndpointId>,
    Query(query): Query<DeliveryQuery>,
) -> Result<List<WebhookDeliveryBody>, ApiError> {
    let page = page(query.limit, query.after.as_deref())?;
    let page = app.webhook_deliveries(&caller, id, query.status, page).await?;
    let id = |delivery: &WebhookDelivery| delivery.delivery_id.0;
    Ok(List::new(page, id, WebhookDeliveryBody::from))
}

/// Returns a delivery to a webhook endpoint with its attempts.
#[utoipa::path(get, path = "/v1/webhook-endpoints/{endpoint_id}/deliveries/{delivery_id}", tag = "webhooks",
    params(("endpoint_id" = WebhookEndpointId, Path), ("delivery_id" = WebhookDeliveryId, Path)),
    responses(
        (status = 200, body = WebhookDeliveryBody, description = "OK"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
    ))]
pub(crate) async fn get_webhook_delivery(
    State(app): State<App>,
    caller: Caller,
    Path((endpoint_id, id)): Path<(WebhookEndpointId, WebhookDeliveryId)>,
) -> Result<axum::Json<WebhookDeliveryBody>, ApiError> {
    Ok(axum::Json(app.webhook_delivery(&caller, Some(endpoint_id), id).await?.into()))
}

/// Sends a delivery to a webhook endpoint again, whatever has become of it.
///
/// It keeps its id and body, and has all its attempts before it again. One that is being sent at the moment is left to that.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{endpoint_id}/deliveries/{delivery_id}/redeliver", tag = "webhooks",
    params(("endpoint_id" = WebhookEndpointId, Path), ("delivery_id" = WebhookDeliveryId, Path)),
    responses(
        (status = 202, body = WebhookDeliveryBody, headers(("location" = String)), description = "Queued"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "`not_found`"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "`webhook_endpoint_disabled`"),
    ))]
pub(crate) async fn redeliver_webhook(
    State(app): State<App>,
    caller: Caller,
    Path((endpoint_id, id)): Path<(WebhookEndpointId, WebhookDeliveryId)>,
) -> Result<impl IntoResponse, ApiError> {
    let delivery = app.redeliver_webhook(&caller, endpoint_id, id).await?;
    let location = location(&path(&delivery));
    Ok((StatusCode::ACCEPTED, location, axum::Json(WebhookDeliveryBody::from(delivery))))
}
