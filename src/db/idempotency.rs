//! Table `idempotency_key`: what was answered to requests that must not be done twice.

use std::time::Duration;

use sqlx::PgExecutor;

use crate::domain::id::ProjectId;

/// How long a key is remembered.
pub const KEYS_ARE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Keys that [`forget`] deletes in one statement.
const FORGOTTEN_AT_ONCE: i64 = 5000;

/// What names a request that must not be done twice.
#[derive(Clone, Copy, Debug)]
pub struct KeyOf<'a> {
    pub project_id: ProjectId,
    pub operation: &'a str,
    pub key: &'a str,
}

/// What is kept of a request.
#[derive(Clone, Debug)]
pub struct KeptRequest {
    /// SHA-256 of what was sent.
    pub fingerprint: Vec<u8>,
    /// The published id of what was made.
    pub made: Option<String>,
    pub status: Option<i16>,
    pub location: Option<String>,
    pub body: Option<Vec<u8>>,
}

/// An answer to keep.
#[derive(Clone, Copy, Debug)]
pub struct KeptAnswer<'a> {
    pub status: i16,
    pub location: Option<&'a str>,
    pub body: &'a [u8],
}

/// Returns what is kept of a request, if the key has not been forgotten.
pub async fn find(db: impl PgExecutor<'_>, of: KeyOf<'_>) -> sqlx::Result<Option<KeptRequest>> {
    sqlx::query_as!(
        KeptRequest,
        "
        select fingerprint, made, status, location, body from idempotency_key
        where project_id = $1 and operation = $2 and key = $3
            and created_at >= now() - make_interval(secs => $4)
        ",
        of.project_id.0,
        of.operation,
        of.key,
        KEYS_ARE_KEPT.as_secs_f64(),
    )
    .fetch_optional(db)
    .await
}

/// Notes what a request makes; returns whether it is the first one with this key. Of two at the same time, the second waits here for
/// the end of the first one's transaction.
pub async fn claim(
    db: impl PgExecutor<'_>,
    of: KeyOf<'_>,
    fingerprint: &[u8],
    made: &str,
) -> sqlx::Result<bool> {
    let claimed = sqlx::query!(
        "
        insert into idempotency_key as kept (project_id, operation, key, fingerprint, made) values ($1, $2, $3, $4, $5)
        on conflict (project_id, operation, key) do update
        set fingerprint = excluded.fingerprint, made = excluded.made, status = null, location = null, body = null,
            created_at = now()
        where kept.created_at < now() - make_interval(secs => $6)
        ",
        of.project_id.0,
        of.operation,
        of.key,
        fingerprint,
        made,
        KEYS_ARE_KEPT.as_secs_f64(),
    )
    .execute(db)
    .await?;
    Ok(claimed.rows_affected() == 1)
}

/// Keeps the first answer to a request.
pub async fn keep_answer(
    db: impl PgExecutor<'_>,
    of: KeyOf<'_>,
    fingerprint: &[u8],
    answer: KeptAnswer<'_>,
) -> sqlx::Result<()> {
    sqlx::query!(
        "
        insert into idempotency_key as kept (project_id, operation, key, fingerprint, status, location, body)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (project_id, operation, key) do update
        set fingerprint = excluded.fingerprint, status = excluded.status, location = excluded.location, body = excluded.body,
            made = case when kept.created_at >= now() - make_interval(secs => $8) then kept.made end,
            created_at = case when kept.created_at >= now() - make_interval(secs => $8) then kept.created_at else now() end
        where kept.status is null and kept.fingerprint = excluded.fingerprint
            or kept.created_at < now() - make_interval(secs => $8)
        ",
        of.project_id.0,
        of.operation,
        of.key,
        fingerprint,
        answer.status,
        answer.location,
        answer.body,
        KEYS_ARE_KEPT.as_secs_f64(),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes keys that are older than [`KEYS_ARE_KEPT`], some at a time; returns how many.
pub async fn forget(db: impl PgExecutor<'_>) -> sqlx::Result<u64> {
    let deleted = sqlx::query!(
        "
        delete from idempotency_key where (project_id, operation, key) in (
            select project_id, operation, key from idempotency_key
            where created_at < now() - make_interval(secs => $1)
            order by created_at
            limit $2
            for update skip locked
        )
        ",
        KEYS_ARE_KEPT.as_secs_f64(),
        FORGOTTEN_AT_ONCE,
    )
    .execute(db)
    .await?;
    Ok(deleted.rows_affected())
}
