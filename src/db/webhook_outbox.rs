//! Tables `webhook_delivery` and `webhook_attempt`, from the side of the sender.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::domain::id::{ProjectId, WebhookDeliveryId, WebhookEndpointId};
use crate::domain::webhook::delivery::{WebhookAttempt, WebhookEvent};
use crate::domain::webhook::secret::WebhookSecret;

/// A delivery that this process sends now.
#[derive(Clone, Debug)]
pub struct LeasedDelivery {
    pub delivery_id: WebhookDeliveryId,
    pub endpoint_id: WebhookEndpointId,
    pub event: WebhookEvent,
    pub url: String,
    /// The secrets to sign with: the current one, and the one before while it is live.
    pub secrets: Vec<WebhookSecret>,
    /// The number of this attempt, counted from 1; later writes name it, so that a sender that was late changes nothing.
    pub attempt: i32,
    /// Attempts since the delivery was queued, with this one.
    pub tries: i32,
}

/// How many deliveries are leased at once.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// In all.
    pub most: i64,
    /// To one endpoint, counted over all processes.
    pub per_endpoint: i64,
}

/// Leases deliveries that are due, a few of each endpoint, so that no endpoint is in another one's way. One that is failing gets
/// one at a time.
///
/// An endpoint is looked at by one process at a time, and its deliveries are read from an index in their order: thousands that
/// wait for one endpoint cost nothing.
pub async fn lease(
    db: impl PgExecutor<'_>,
    share: Share,
    lease: Duration,
) -> sqlx::Result<Vec<LeasedDelivery>> {
    let rows = sqlx::query!(
        r#"
        with endpoint as materialized (
            select webhook_endpoint_id, url, secret, failing_since,
                case when previous_secret_until > now() then previous_secret end as previous_secret
            from webhook_endpoint
            where enabled and exists (
                select from webhook_delivery
                where webhook_delivery.webhook_endpoint_id = webhook_endpoint.webhook_endpoint_id
                    and state = 'pending' and next_attempt_at <= now()
            )
            for no key update skip locked
        ), due as (
            select picked.webhook_delivery_id, endpoint.url, endpoint.secret, endpoint.previous_secret
            from endpoint cross join lateral (
                select webhook_delivery_id, next_attempt_at from webhook_delivery
                where webhook_endpoint_id = endpoint.webhook_endpoint_id and state = 'pending'
                    and next_attempt_at <= now()
                order by next_attempt_at
                limit greatest(0, case when endpoint.failing_since is null then $2::bigint else 1 end - (
                    select count(*) from webhook_delivery as leased
                    where leased.webhook_endpoint_id = endpoint.webhook_endpoint_id and leased.leased_until > now()
                ))
                for update skip locked
            ) as picked
            order by picked.next_attempt_at
            limit $1
        )
        update webhook_delivery
        set leased_until = now() + make_interval(secs => $3), next_attempt_at = now() + make_interval(secs => $3),
            attempts = attempts + 1, tries = tries + 1
        from due
        where webhook_delivery.webhook_delivery_id = due.webhook_delivery_id
        returning webhook_delivery.webhook_delivery_id as "delivery_id: WebhookDeliveryId",
            project_id as "project_id: ProjectId", webhook_endpoint_id as "endpoint_id: WebhookEndpointId", event_type,
            object, object_id as "object_id: Uuid", status, object_revision, external_id, occurred_at, attempts, tries,
            due.url, due.secret, due.previous_secret
        "#,
        share.most,
        share.per_endpoint,
        lease.as_secs_f64(),
    )
    .fetch_all(db)
    .await?;
    let deliveries = rows.into_iter().map(|row| LeasedDelivery {
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
        url: row.url,
        secrets: [Some(row.secret), row.previous_secret]
            .into_iter()
            .flatten()
            .filter_map(|secret| WebhookSecret::try_from(secret).ok())
            .collect(),
        attempt: row.attempts,
        tries: row.tries,
    });
    Ok(deliveries.collect())
}

/// What becomes of a delivery after an attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    Succeeded,
    /// Another attempt after this time.
    Retry(Duration),
    /// No further attempt.
    Failed(&'static str),
}

/// Records an attempt and what becomes of its delivery. Returns whether that counted: not if the delivery is gone, or another
/// sender has it by now.
pub async fn conclude(
    db: impl PgExecutor<'_>,
    delivery: &LeasedDelivery,
    attempt: &WebhookAttempt,
    next: Next,
) -> sqlx::Result<bool> {
    let (state, reason, delay) = match next {
        Next::Succeeded => ("succeeded", None, None),
        Next::Retry(delay) => ("pending", None, Some(delay.as_secs_f64())),
        Next::Failed(reason) => ("failed", Some(reason), None),
    };
    let recorded = sqlx::query!(
        "
        with ended as (
            update webhook_delivery
            set state = $3, reason = $4, next_attempt_at = now() + make_interval(secs => $5), leased_until = null,
                finished_at = case when $3 = 'pending' then null else now() end
            where webhook_delivery_id = $1 and attempts = $2 and state = 'pending'
            returning webhook_delivery_id, project_id
        )
        insert into webhook_attempt (webhook_delivery_id, project_id, attempt, started_at, duration_ms, status_code,
            error, answer)
        select webhook_delivery_id, project_id, $2, $6, $7, $8, $9, $10 from ended
        ",
        delivery.delivery_id.0,
        delivery.attempt,
        state,
        reason,
        delay,
        attempt.started_at,
        attempt.duration_ms,
        attempt.status_code,
        attempt.error,
        attempt.answer,
    )
    .execute(db)
    .await?;
    Ok(recorded.rows_affected() > 0)
}

/// Gives a delivery back that was not sent to its end. The attempt counts for nothing.
pub async fn give_back(db: impl PgExecutor<'_>, delivery: &LeasedDelivery) -> sqlx::Result<()> {
    sqlx::query!(
        "
        update webhook_delivery
        set leased_until = null, next_attempt_at = now(), tries = greatest(0, tries - 1)
        where webhook_delivery_id = $1 and attempts = $2 and state = 'pending'
        ",
        delivery.delivery_id.0,
        delivery.attempt,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that an endpoint answers.
pub async fn note_success(
    db: impl PgExecutor<'_>,
    endpoint_id: WebhookEndpointId,
) -> sqlx::Result<()> {
    sqlx::query!(
        "
        update webhook_endpoint set failing_since = null
        where webhook_endpoint_id = $1 and failing_since is not null
        ",
        endpoint_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Notes that an endpoint does not, and returns since when.
pub async fn note_failure(
    db: impl PgExecutor<'_>,
    endpoint_id: WebhookEndpointId,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    let since = sqlx::query_scalar!(
        "
        update webhook_endpoint set failing_since = coalesce(failing_since, now())
        where webhook_endpoint_id = $1 and enabled
        returning failing_since
        ",
        endpoint_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(since.flatten())
}

/// Disables an endpoint. Returns whether it was enabled.
pub async fn disable(
    db: impl PgExecutor<'_>,
    endpoint_id: WebhookEndpointId,
    reason: &str,
) -> sqlx::Result<bool> {
    let disabled = sqlx::query!(
        "
        update webhook_endpoint set enabled = false, disabled_reason = $2
        where webhook_endpoint_id = $1 and enabled
        ",
        endpoint_id.0,
        reason,
    )
    .execute(db)
    .await?;
    Ok(disabled.rows_affected() > 0)
}

/// How many deliveries are still to be sent, and since when the oldest of them that is due has been; for metrics.
pub async fn backlog(db: impl PgExecutor<'_>) -> sqlx::Result<(i64, Option<DateTime<Utc>>)> {
    let row = sqlx::query!(
        r#"
        select count(*) as "pending!", min(next_attempt_at) filter (where next_attempt_at <= now()) as due_since
        from webhook_delivery where state = 'pending'
        "#
    )
    .fetch_one(db)
    .await?;
    Ok((row.pending, row.due_since))
}
