//! Whether a job has ended, and by whom.

use sqlx::PgExecutor;

use crate::domain::id::JobId;

/// Returns whether the lease of this number has ended the job as succeeded.
pub async fn has_succeeded(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
) -> sqlx::Result<bool> {
    let ended = sqlx::query!(
        "select job_id from job where job_id = $1 and fence = $2 and state = 'succeeded'",
        job_id.0,
        fence,
    )
    .fetch_optional(db)
    .await?;
    Ok(ended.is_some())
}
