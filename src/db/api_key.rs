//! Tables `api_key` and `key_pepper`: keys of the API, without their secrets.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::Page;
use crate::domain::access::{ApiKey, Scopes};
use crate::domain::id::{ApiKeyId, ProjectId};

/// A key with what its secrets are compared with.
#[derive(Clone, Debug)]
pub struct StoredKey {
    pub key: ApiKey,
    /// HMAC-SHA256 of the secret.
    pub secret_mac: Vec<u8>,
    /// That of the secret before the last rotation.
    pub previous_mac: Option<Vec<u8>>,
}

struct Row {
    key_id: ApiKeyId,
    project_id: ProjectId,
    public_id: String,
    name: String,
    scopes: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
    previous_until: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    secret_mac: Vec<u8>,
    previous_mac: Option<Vec<u8>>,
}

impl From<Row> for StoredKey {
    fn from(row: Row) -> Self {
        let key = ApiKey {
            key_id: row.key_id,
            project_id: row.project_id,
            public_id: row.public_id,
            name: row.name,
            scopes: Scopes::from_names(&row.scopes),
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            previous_until: row.previous_until,
            created_at: row.created_at,
        };
        Self { key, secret_mac: row.secret_mac, previous_mac: row.previous_mac }
    }
}

impl From<Row> for ApiKey {
    fn from(row: Row) -> Self {
        StoredKey::from(row).key
    }
}

/// Adds a key.
pub async fn create(db: impl PgExecutor<'_>, key: &ApiKey, secret_mac: &[u8]) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into api_key (key_id, project_id, public_id, name, secret_mac, scopes, expires_at, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)",
        key.key_id.0,
        key.project_id.0,
        key.public_id,
        key.name,
        secret_mac,
        &key.scopes.names(),
        key.expires_at,
        key.created_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Finds a key by the part of it that is no secret.
pub async fn find_by_public_id(
    db: impl PgExecutor<'_>,
    public_id: &str,
) -> sqlx::Result<Option<StoredKey>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select key_id as "key_id: ApiKeyId", project_id as "project_id: ProjectId", public_id, name, scopes, expires_at,
            last_used_at, previous_until, created_at, secret_mac, previous_mac
        from api_key where public_id = $1
        "#,
        public_id,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(StoredKey::from))
}

/// Finds a key by its id.
pub async fn find(db: impl PgExecutor<'_>, key_id: ApiKeyId) -> sqlx::Result<Option<StoredKey>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select key_id as "key_id: ApiKeyId", project_id as "project_id: ProjectId", public_id, name, scopes, expires_at,
            last_used_at, previous_until, created_at, secret_mac, previous_mac
        from api_key where key_id = $1
        "#,
        key_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(StoredKey::from))
}

/// Lists keys, newest first: those of one project, or all.
pub async fn list(
    db: impl PgExecutor<'_>,
    project_id: Option<ProjectId>,
    page: Page,
) -> sqlx::Result<Vec<ApiKey>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select key_id as "key_id: ApiKeyId", project_id as "project_id: ProjectId", public_id, name, scopes, expires_at,
            last_used_at, previous_until, created_at, secret_mac, previous_mac
        from api_key
        where key_id < $1 and ($3::uuid is null or project_id = $3)
        order by key_id desc limit $2
        "#,
        page.below(),
        page.limit,
        project_id.map(|project| project.0),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(ApiKey::from).collect())
}

/// Gives a key a new secret. The one before stays good until `previous_until`. Returns `None` if there is no such key.
pub async fn rotate(
    db: impl PgExecutor<'_>,
    key_id: ApiKeyId,
    secret_mac: &[u8],
    previous_until: DateTime<Utc>,
) -> sqlx::Result<Option<ApiKey>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        update api_key set previous_mac = secret_mac, previous_until = $3, secret_mac = $2 where key_id = $1
        returning key_id as "key_id: ApiKeyId", project_id as "project_id: ProjectId", public_id, name, scopes, expires_at,
            last_used_at, previous_until, created_at, secret_mac, previous_mac
        "#,
        key_id.0,
        secret_mac,
        previous_until,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(ApiKey::from))
}

/// Deletes a key. Returns whether it was there.
pub async fn delete(db: impl PgExecutor<'_>, key_id: ApiKeyId) -> sqlx::Result<bool> {
    let done = sqlx::query!("delete from api_key where key_id = $1", key_id.0).execute(db).await?;
    Ok(done.rows_affected() == 1)
}

/// Notes that a key has been used, at most once a minute.
pub async fn note_use(db: impl PgExecutor<'_>, key_id: ApiKeyId) -> sqlx::Result<()> {
    sqlx::query!(
        "update api_key set last_used_at = now()
        where key_id = $1 and (last_used_at is null or last_used_at < now() - interval '1 minute')",
        key_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Serializes the processes that start for the first time, until their transactions end.
pub async fn take_turn(db: impl PgExecutor<'_>) -> sqlx::Result<()> {
    sqlx::query!("select pg_advisory_xact_lock(hashtext('keys')::bigint) is null as locked")
        .fetch_one(db)
        .await?;
    Ok(())
}

/// Whether there is any key.
pub async fn any(db: impl PgExecutor<'_>) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from api_key) as "any!""#).fetch_one(db).await
}

/// Records the fingerprint of the pepper if there is none yet, and returns the recorded one.
pub async fn pepper_fingerprint(
    db: impl PgExecutor<'_>,
    fingerprint: &[u8],
) -> sqlx::Result<Vec<u8>> {
    sqlx::query_scalar!(
        "insert into key_pepper (fingerprint) values ($1)
        on conflict (only_one) do update set fingerprint = key_pepper.fingerprint
        returning fingerprint",
        fingerprint,
    )
    .fetch_one(db)
    .await
}
