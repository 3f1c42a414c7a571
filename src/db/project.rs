//! Table `project`: whose things are whose, and how much somebody may have.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::Page;
use crate::domain::access::{Project, Quotas, Usage};
use crate::domain::id::ProjectId;

struct Row {
    project_id: ProjectId,
    name: String,
    max_concepts: Option<i64>,
    max_stored_bytes: Option<i64>,
    max_active_jobs: Option<i64>,
    created_at: DateTime<Utc>,
}

impl From<Row> for Project {
    fn from(row: Row) -> Self {
        let quotas = Quotas {
            max_concepts: row.max_concepts,
            max_stored_bytes: row.max_stored_bytes,
            max_active_jobs: row.max_active_jobs,
        };
        Self { project_id: row.project_id, name: row.name, quotas, created_at: row.created_at }
    }
}

/// Adds a project.
pub async fn create(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    name: &str,
    quotas: Quotas,
) -> sqlx::Result<Project> {
    let row = sqlx::query_as!(
        Row,
        r#"
        insert into project (project_id, name, max_concepts, max_stored_bytes, max_active_jobs)
        values ($1, $2, $3, $4, $5)
        returning project_id as "project_id: ProjectId", name, max_concepts, max_stored_bytes, max_active_jobs, created_at
        "#,
        project_id.0,
        name,
        quotas.max_concepts,
        quotas.max_stored_bytes,
        quotas.max_active_jobs,
    )
    .fetch_one(db)
    .await?;
    Ok(row.into())
}

/// Replaces the name and the quotas of a project. Returns `None` if there is none of this id.
pub async fn update(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    name: &str,
    quotas: Quotas,
) -> sqlx::Result<Option<Project>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        update project set name = $2, max_concepts = $3, max_stored_bytes = $4, max_active_jobs = $5
        where project_id = $1
        returning project_id as "project_id: ProjectId", name, max_concepts, max_stored_bytes, max_active_jobs, created_at
        "#,
        project_id.0,
        name,
        quotas.max_concepts,
        quotas.max_stored_bytes,
        quotas.max_active_jobs,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Project::from))
}

/// Returns one project.
pub async fn find(db: impl PgExecutor<'_>, project_id: ProjectId) -> sqlx::Result<Option<Project>> {
    let row = sqlx::query_as!(
        Row,
        r#"
        select project_id as "project_id: ProjectId", name, max_concepts, max_stored_bytes, max_active_jobs, created_at
        from project where project_id = $1
        "#,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Project::from))
}

/// Lists projects, newest first.
pub async fn list(db: impl PgExecutor<'_>, page: Page) -> sqlx::Result<Vec<Project>> {
    let rows = sqlx::query_as!(
        Row,
        r#"
        select project_id as "project_id: ProjectId", name, max_concepts, max_stored_bytes, max_active_jobs, created_at
        from project where project_id < $1
        order by project_id desc limit $2
        "#,
        page.below(),
        page.limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Project::from).collect())
}

/// Serializes the transactions that count what a project has, from here to their end. What one of them counts stays true
/// until it has added its own.
pub async fn take_turn(db: impl PgExecutor<'_>, project_id: ProjectId) -> sqlx::Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtext('quota'), hashtext($1)) is null as locked",
        project_id.0.to_string(),
    )
    .fetch_one(db)
    .await?;
    Ok(())
}

/// Counts what a project has.
pub async fn usage(db: impl PgExecutor<'_>, project_id: ProjectId) -> sqlx::Result<Usage> {
    sqlx::query_as!(
        Usage,
        r#"
        select
            (select count(*) from concept where project_id = $1) as "concepts!",
            images.count as "images!", image_sets.count as "image_sets!", deltas.count as "deltas!",
            (images.bytes + image_sets.bytes + deltas.bytes)::bigint as "stored_bytes!",
            (select count(*) from job where project_id = $1 and state = 'queued') as "queued_jobs!",
            (select count(*) from job where project_id = $1 and state = 'running') as "running_jobs!"
        from
            (select count(*), coalesce(sum(size_bytes), 0) as bytes from image where project_id = $1) as images,
            (select count(*), coalesce(sum(size_bytes), 0) as bytes from image_set
                where project_id = $1 and source <> 'base_model') as image_sets,
            (select count(*), coalesce(sum(size_bytes), 0) as bytes from delta where project_id = $1) as deltas
        "#,
        project_id.0,
    )
    .fetch_one(db)
    .await
}
