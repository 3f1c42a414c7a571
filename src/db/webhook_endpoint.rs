//! Table `webhook_endpoint`: where projects are told of events.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;

use super::{Page, record_of};
use crate::domain::id::{ProjectId, WebhookEndpointId};
use crate::domain::record::{ExternalId, Labels, Metadata};
use crate::domain::webhook::secret::WebhookSecret;
use crate::domain::webhook::{EventType, WebhookEndpoint};

struct EndpointRow {
    endpoint_id: WebhookEndpointId,
    project_id: ProjectId,
    url: String,
    description: Option<String>,
    event_types: Option<Vec<String>>,
    enabled: bool,
    disabled_reason: Option<String>,
    secret: String,
    previous_secret_until: Option<DateTime<Utc>>,
    failing_since: Option<DateTime<Utc>>,
    revision: i64,
    metadata: Json<Metadata>,
    external_id: Option<ExternalId>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<EndpointRow> for WebhookEndpoint {
    type Error = sqlx::Error;

    fn try_from(row: EndpointRow) -> sqlx::Result<Self> {
        let secret = WebhookSecret::try_from(row.secret)
            .map_err(|error| sqlx::Error::Decode(error.into()))?;
        let event_types = row.event_types.map(|stored| {
            // A newer version of the program may have stored others.
            EventType::ALL
                .iter()
                .copied()
                .filter(|event| stored.iter().any(|name| name == event.as_str()))
                .collect()
        });
        Ok(Self {
            endpoint_id: row.endpoint_id,
            project_id: row.project_id,
            url: row.url,
            description: row.description,
            event_types,
            enabled: row.enabled,
            disabled_reason: row.disabled_reason,
            secret,
            previous_secret_until: row.previous_secret_until,
            failing_since: row.failing_since,
            record: record_of(row.revision, row.updated_at, row.metadata, row.external_id),
            created_at: row.created_at,
        })
    }
}

/// What its owner decides about an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointSettings<'a> {
    pub url: &'a str,
    pub description: Option<&'a str>,
    pub event_types: Option<&'a [EventType]>,
    pub enabled: bool,
}

fn names(event_types: Option<&[EventType]>) -> Option<Vec<String>> {
    event_types.map(|types| types.iter().map(|event| event.as_str().to_owned()).collect())
}

/// Locks the number of a project's endpoints until the transaction ends, and returns it.
pub async fn lock_count(db: &mut sqlx::PgConnection, project: ProjectId) -> sqlx::Result<i64> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('webhook_endpoint ' || $1::uuid, 0))",
        project.0
    )
    .execute(&mut *db)
    .await?;
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from webhook_endpoint where project_id = $1"#,
        project.0
    )
    .fetch_one(&mut *db)
    .await
}

/// Adds an endpoint.
pub async fn create(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: WebhookEndpointId,
    settings: &EndpointSettings<'_>,
    secret: &WebhookSecret,
    labels: &Labels,
) -> sqlx::Result<WebhookEndpoint> {
    let event_types = names(settings.event_types);
    sqlx::query_as!(
        EndpointRow,
        r#"
        insert into webhook_endpoint (webhook_endpoint_id, project_id, url, description, event_types, enabled, secret,
            metadata, external_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        returning webhook_endpoint_id as "endpoint_id: WebhookEndpointId", project_id as "project_id: ProjectId", url,
            description, event_types, enabled, disabled_reason, secret, previous_secret_until, failing_since, revision,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId", created_at, updated_at
        "#,
        endpoint_id.0,
        project.0,
        settings.url,
        settings.description,
        event_types.as_deref(),
        settings.enabled,
        secret.reveal(),
        Json(&labels.metadata) as Json<&Metadata>,
        labels.external_id.as_ref().map(ExternalId::as_str),
    )
    .fetch_one(db)
    .await?
    .try_into()
}

/// Returns an endpoint of a project.
pub async fn find(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: WebhookEndpointId,
) -> sqlx::Result<Option<WebhookEndpoint>> {
    let row = sqlx::query_as!(
        EndpointRow,
        r#"
        select webhook_endpoint_id as "endpoint_id: WebhookEndpointId", project_id as "project_id: ProjectId", url,
            description, event_types, enabled, disabled_reason, secret, previous_secret_until, failing_since, revision,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId", created_at, updated_at
        from webhook_endpoint
        where project_id = $1 and webhook_endpoint_id = $2
        "#,
        project.0,
        endpoint_id.0,
    )
    .fetch_optional(db)
    .await?;
    row.map(WebhookEndpoint::try_from).transpose()
}

/// The same, locked until the transaction ends.
pub async fn lock(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: WebhookEndpointId,
) -> sqlx::Result<Option<WebhookEndpoint>> {
    let row = sqlx::query_as!(
        EndpointRow,
        r#"
        select webhook_endpoint_id as "endpoint_id: WebhookEndpointId", project_id as "project_id: ProjectId", url,
            description, event_types, enabled, disabled_reason, secret, previous_secret_until, failing_since, revision,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId", created_at, updated_at
        from webhook_endpoint
        where project_id = $1 and webhook_endpoint_id = $2
        for no key update
        "#,
        project.0,
        endpoint_id.0,
    )
    .fetch_optional(db)
    .await?;
    row.map(WebhookEndpoint::try_from).transpose()
}

/// Lists the endpoints of a project, newest first.
pub async fn list(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    page: Page,
) -> sqlx::Result<Vec<WebhookEndpoint>> {
    let rows = sqlx::query_as!(
        EndpointRow,
        r#"
        select webhook_endpoint_id as "endpoint_id: WebhookEndpointId", project_id as "project_id: ProjectId", url,
            description, event_types, enabled, disabled_reason, secret, previous_secret_until, failing_since, revision,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId", created_at, updated_at
        from webhook_endpoint
        where project_id = $1 and webhook_endpoint_id < $2
        order by webhook_endpoint_id desc
        limit $3
        "#,
        project.0,
        page.below(),
        page.limit,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(WebhookEndpoint::try_from).collect()
}

/// Changes what its owner decides. An endpoint that is enabled begins with a clean record.
pub async fn update(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: WebhookEndpointId,
    settings: &EndpointSettings<'_>,
) -> sqlx::Result<WebhookEndpoint> {
    let event_types = names(settings.event_types);
    sqlx::query_as!(
        EndpointRow,
        r#"
        update webhook_endpoint
        set url = $3, description = $4, event_types = $5, enabled = $6,
            failing_since = case when enabled and $6 and url = $3 then failing_since end,
            disabled_reason = case when $6 then null else disabled_reason end
        where project_id = $1 and webhook_endpoint_id = $2
        returning webhook_endpoint_id as "endpoint_id: WebhookEndpointId", project_id as "project_id: ProjectId", url,
            description, event_types, enabled, disabled_reason, secret, previous_secret_until, failing_since, revision,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId", created_at, updated_at
        "#,
        project.0,
        endpoint_id.0,
        settings.url,
        settings.description,
        event_types.as_deref(),
        settings.enabled,
    )
    .fetch_one(db)
    .await?
    .try_into()
}

/// Replaces the secret. The one before still signs for a while.
pub async fn rotate(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: WebhookEndpointId,
    secret: &WebhookSecret,
    overlap: Duration,
) -> sqlx::Result<Option<WebhookEndpoint>> {
    let row = sqlx::query_as!(
        EndpointRow,
        r#"
        update webhook_endpoint
        set secret = $3, previous_secret = secret, previous_secret_until = now() + make_interval(secs => $4)
        where project_id = $1 and webhook_endpoint_id = $2
        returning webhook_endpoint_id as "endpoint_id: WebhookEndpointId", project_id as "project_id: ProjectId", url,
            description, event_types, enabled, disabled_reason, secret, previous_secret_until, failing_since, revision,
            metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId", created_at, updated_at
        "#,
        project.0,
        endpoint_id.0,
        secret.reveal(),
        overlap.as_secs_f64(),
    )
    .fetch_optional(db)
    .await?;
    row.map(WebhookEndpoint::try_from).transpose()
}

/// Deletes an endpoint with its deliveries, those included that are still to be sent. Returns how many there were.
pub async fn delete(
    db: impl PgExecutor<'_>,
    project: ProjectId,
    endpoint_id: WebhookEndpointId,
) -> sqlx::Result<i64> {
    // What is counted is the log as it was before the statement.
    let deliveries = sqlx::query_scalar!(
        r#"
        with gone as (
            delete from webhook_endpoint where project_id = $1 and webhook_endpoint_id = $2
            returning webhook_endpoint_id
        )
        select count(*) as "count!" from gone join webhook_delivery using (webhook_endpoint_id)
        "#,
        project.0,
        endpoint_id.0,
    );
    deliveries.fetch_one(db).await
}
