//! Table `job_report`: what jobs have found out. Each kind of job has a type of its own for it.

use serde::Serialize;
use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::JobId;
use crate::domain::storage_key::StorageKey;

/// Records the report of a job, in the transaction that ends it.
pub async fn record(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    report: &(impl Serialize + Sync),
    sheet: Option<&StorageKey>,
) -> sqlx::Result<()> {
    let report = serde_json::to_value(report).map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        "insert into job_report (job_id, report, sheet_key) values ($1, $2, $3)",
        job_id.0,
        Json(report) as Json<serde_json::Value>,
        sheet.map(StorageKey::as_str),
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Finds the reports of these jobs; a job without one is omitted.
pub async fn of_jobs(
    db: impl PgExecutor<'_>,
    jobs: &[JobId],
) -> sqlx::Result<Vec<(JobId, serde_json::Value)>> {
    let rows = sqlx::query!(
        r#"
        select job_id as "job_id: JobId", report as "report: Json<serde_json::Value>"
        from job_report where job_id = any($1)
        "#,
        &jobs.iter().map(|id| id.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.job_id, row.report.0)).collect())
}

/// The key of a job's contact sheet; `None` if it has none.
pub async fn sheet_of(db: impl PgExecutor<'_>, job_id: JobId) -> sqlx::Result<Option<StorageKey>> {
    let key = sqlx::query_scalar!("select sheet_key from job_report where job_id = $1", job_id.0)
        .fetch_optional(db)
        .await?;
    Ok(key.flatten().map(StorageKey::from))
}
