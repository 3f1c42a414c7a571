//! Table `training_preview`: what a training has drawn of itself while it ran.

use sqlx::PgExecutor;

use crate::domain::id::JobId;
use crate::domain::training_preview::TrainingPreview;

/// Keeps an image; does nothing if another worker has the job, or if there is one of this step and prompt already.
pub async fn record(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    preview: TrainingPreview,
    png: &[u8],
) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into training_preview (job_id, step, index, png)
        select job_id, $3, $4, $5 from job where job_id = $1 and fence = $2 and state = 'running'
        on conflict (job_id, step, index) do nothing",
        job_id.0,
        fence,
        preview.step,
        preview.index,
        png,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lists a training's images by step, then by prompt.
pub async fn list(db: impl PgExecutor<'_>, job_id: JobId) -> sqlx::Result<Vec<TrainingPreview>> {
    sqlx::query_as!(
        TrainingPreview,
        "select step, index from training_preview where job_id = $1 order by step, index",
        job_id.0,
    )
    .fetch_all(db)
    .await
}

/// Returns one image as PNG.
pub async fn find(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    preview: TrainingPreview,
) -> sqlx::Result<Option<Vec<u8>>> {
    sqlx::query_scalar!(
        "select png from training_preview where job_id = $1 and step = $2 and index = $3",
        job_id.0,
        preview.step,
        preview.index,
    )
    .fetch_optional(db)
    .await
}
