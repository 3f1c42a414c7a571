//! Tables `webhook_delivery` and `webhook_attempt`, from the side of whoever looks at them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Page;
use crate::domain::id::{ProjectId, WebhookDeliveryId, WebhookEndpointId};
use crate::domain::webhook::EventType;
use crate::domain::webhook::delivery::{
    DeliveryStatus, WebhookAttempt, WebhookDelivery, WebhookEvent,
};

/// How long deliveries that have ended are kept.
pub const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Deliveries that [`forget`] deletes in one statement.
const FORGOTTEN_AT_ONCE: i64 = 1000;

struct DeliveryRow {
    delivery_id: WebhookDeliveryId,
    project_id: ProjectId,
    endpoint_id: WebhookEndpointId,
    event_type: String,
    object: String,
    object_id: Uuid,
    status: Option<String>,
    object_revision: Option<i64>,
    external_id: Option<String>,
    occurred_at: DateTime<Utc>,
    state: DeliveryStatus,
    reason: Option<String>,
    next_attempt_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

impl From<DeliveryRow> for WebhookDelivery {
    fn from(row: DeliveryRow) -> Self {
        Self {
            delivery_id: row.delivery_id,
            endpoint_id: row.endpoint_id,
            event: WebhookEvent {
                event_type: row.event_type,
                object: row.object,
                object_id: row.object_id,
                status: row.status,
                revision: row.object_revision,
                external_id: row.external_id,
                project_id: row.project_id,
                occurred_at: row.occurred_at,
            },
            status: row.state,
            reason: row.reason,
            next_attempt_at: row.next_attempt_at,
            finished_at: row.finished_at,
            attempts: Vec::new(),
        }
    }
}

/// Returns a delivery, of this endpoint if one is given, without its attempts.
pub async fn find(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: Option<WebhookEndpointId>,
    delivery_id: WebhookDeliveryId,
) -> sqlx::Result<Option<WebhookDelivery>> {
    let row = sqlx::query_as!(
        DeliveryRow,
        r#"
        select webhook_delivery_id as "delivery_id: WebhookDeliveryId", project_id as "project_id: ProjectId",
            webhook_endpoint_id as "endpoint_id: WebhookEndpointId", event_type, object, object_id, status,
            object_revision, external_id, occurred_at, state as "state: DeliveryStatus", reason, next_attempt_at,
            finished_at
        from webhook_delivery
        where project_id = $1 and ($2::uuid is null or webhook_endpoint_id = $2) and webhook_delivery_id = $3
        "#,
        project.0,
        endpoint_id.map(|id| id.0),
        delivery_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(WebhookDelivery::from))
}

/// Lists the deliveries of an endpoint, newest first, without their attempts.
pub async fn list(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: WebhookEndpointId,
    status: Option<DeliveryStatus>,
    page: Page,
) -> sqlx::Result<Vec<WebhookDelivery>> {
    let rows = sqlx::query_as!(
        DeliveryRow,
        r#"
        select webhook_delivery_id as "delivery_id: WebhookDeliveryId", project_id as "project_id: ProjectId",
            webhook_endpoint_id as "endpoint_id: WebhookEndpointId", event_type, object, object_id, status,
            object_revision, external_id, occurred_at, state as "state: DeliveryStatus", reason, next_attempt_at,
            finished_at
        from webhook_delivery
        where project_id = $1 and webhook_endpoint_id = $2 and ($3::text is null or state = $3)
            and webhook_delivery_id < $4
        order by webhook_delivery_id desc
        limit $5
        "#,
        project.0,
        endpoint_id.0,
        status.map(DeliveryStatus::as_str),
        page.below(),
        page.limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(WebhookDelivery::from).collect())
}

/// The attempts of these deliveries, in order.
pub async fn attempts_of(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    deliveries: &[WebhookDeliveryId],
) -> sqlx::Result<Vec<(WebhookDeliveryId, WebhookAttempt)>> {
    let rows = sqlx::query!(
        r#"
        select webhook_delivery_id as "delivery_id: WebhookDeliveryId", attempt, started_at, duration_ms, status_code,
            error, answer
        from webhook_attempt
        where project_id = $1 and webhook_delivery_id = any($2)
        order by webhook_delivery_id, attempt
        "#,
        project.0,
        &deliveries.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    let attempts = rows.into_iter().map(|row| {
        let attempt = WebhookAttempt {
            attempt: row.attempt,
            started_at: row.started_at,
            duration_ms: row.duration_ms,
            status_code: row.status_code,
            error: row.error,
            answer: row.answer,
        };
        (row.delivery_id, attempt)
    });
    Ok(attempts.collect())
}

/// Queues a test delivery to an endpoint.
pub async fn queue_test(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: WebhookEndpointId,
    revision: i64,
) -> sqlx::Result<WebhookDelivery> {
    let row = sqlx::query_as!(
        DeliveryRow,
        r#"
        insert into webhook_delivery (webhook_delivery_id, project_id, webhook_endpoint_id, event_type, object, object_id,
            status, object_revision, next_attempt_at)
        values ($1, $2, $3, $4, 'webhook_endpoint', $3, 'enabled', $5, now())
        returning webhook_delivery_id as "delivery_id: WebhookDeliveryId", project_id as "project_id: ProjectId",
            webhook_endpoint_id as "endpoint_id: WebhookEndpointId", event_type, object, object_id, status,
            object_revision, external_id, occurred_at, state as "state: DeliveryStatus", reason, next_attempt_at,
            finished_at
        "#,
        WebhookDeliveryId::generate().0,
        project.0,
        endpoint_id.0,
        EventType::WebhookTest.as_str(),
        revision,
    )
    .fetch_one(db)
    .await?;
    Ok(row.into())
}

/// Sends a delivery again as soon as possible, whatever has become of it, with all its attempts before it. One that is being
/// sent at the moment is left to that.
pub async fn send_again(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: WebhookEndpointId,
    delivery_id: WebhookDeliveryId,
) -> sqlx::Result<()> {
    sqlx::query!(
        "
        update webhook_delivery
        set state = 'pending', reason = null, finished_at = null, next_attempt_at = now(), tries = 0
        where project_id = $1 and webhook_endpoint_id = $2 and webhook_delivery_id = $3
            and (leased_until is null or leased_until < now())
        ",
        project.0,
        endpoint_id.0,
        delivery_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Ends the deliveries of an endpoint that are still to be sent.
pub async fn cancel_pending(
    db: impl PgExecutor<'_>,
    endpoint_id: WebhookEndpointId,
    reason: &str,
) -> sqlx::Result<()> {
    sqlx::query!(
        "
        update webhook_delivery
        set state = 'canceled', reason = $2, next_attempt_at = null, leased_until = null, finished_at = now()
        where webhook_endpoint_id = $1 and state = 'pending'
        ",
        endpoint_id.0,
        reason,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes deliveries that have ended longer than [`KEPT`] ago, some at a time; returns how many.
pub async fn forget(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    let deleted = sqlx::query!(
        "
        delete from webhook_delivery where webhook_delivery_id in (
            select webhook_delivery_id from webhook_delivery
            where state <> 'pending' and finished_at < now() - make_interval(secs => $1)
            order by finished_at limit $2
            for update skip locked
        )
        ",
        KEPT.as_secs_f64(),
        FORGOTTEN_AT_ONCE,
    )
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}
