//! Table `audit`: who has changed what. Rows are added and never changed.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::Page;
use crate::domain::access::AuditEntry;
use crate::domain::id::{ApiKeyId, AuditId, ProjectId};

/// Adds an entry.
pub async fn record(db: impl PgExecutor<'_>, entry: &AuditEntry) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into audit (audit_id, project_id, key_id, operation, object, status, request_id, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)",
        entry.audit_id.0,
        entry.project_id.0,
        entry.key_id.map(|key| key.0),
        entry.operation,
        entry.object,
        entry.status,
        entry.request_id,
        entry.created_at,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lists entries, newest first: those of one project, or all.
pub async fn list(
    db: impl PgExecutor<'_>,
    project_id: Option<ProjectId>,
    page: Page,
) -> sqlx::Result<Vec<AuditEntry>> {
    struct Row {
        audit_id: AuditId,
        project_id: ProjectId,
        key_id: Option<ApiKeyId>,
        operation: String,
        object: String,
        status: i32,
        request_id: String,
        created_at: DateTime<Utc>,
    }
    let rows = sqlx::query_as!(
        Row,
        r#"
        select audit_id as "audit_id: AuditId", project_id as "project_id: ProjectId", key_id as "key_id: ApiKeyId",
            operation, object, status, request_id, created_at
        from audit
        where audit_id < $1 and ($3::uuid is null or project_id = $3)
        order by audit_id desc limit $2
        "#,
        page.below(),
        page.limit,
        project_id.map(|project| project.0),
    )
    .fetch_all(db)
    .await?;
    let entries = rows.into_iter().map(|row| AuditEntry {
        audit_id: row.audit_id,
        project_id: row.project_id,
        key_id: row.key_id,
        operation: row.operation,
        object: row.object,
        status: row.status,
        request_id: row.request_id,
        created_at: row.created_at,
    });
    Ok(entries.collect())
}
