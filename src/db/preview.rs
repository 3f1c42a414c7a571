//! Table `sample_preview`: what a running sample's images look like so far; deleted when the job ends.

use sqlx::PgExecutor;

use crate::domain::id::JobId;
use crate::domain::job::Preview;

/// Keeps the newest previews of a job's images; does nothing if another worker has the job.
pub async fn record(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    previews: &[Preview],
) -> sqlx::Result<()> {
    let indices: Vec<i32> = previews.iter().map(|preview| preview.index).collect();
    let steps: Vec<i32> = previews.iter().map(|preview| preview.step).collect();
    let pngs: Vec<Vec<u8>> = previews.iter().map(|preview| preview.png.clone()).collect();
    sqlx::query!(
        "insert into sample_preview (job_id, index, step, png)
        select $1, index, step, png
        from unnest($3::integer[], $4::integer[], $5::bytea[]) as given (index, step, png)
        where exists (select from job where job_id = $1 and fence = $2 and state = 'running')
        on conflict (job_id, index) do update set step = excluded.step, png = excluded.png",
        job_id.0,
        fence,
        &indices,
        &steps,
        &pngs,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns the newest preview of one image.
pub async fn find(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    index: i32,
) -> sqlx::Result<Option<Preview>> {
    sqlx::query_as!(
        Preview,
        "select index, step, png from sample_preview where job_id = $1 and index = $2",
        job_id.0,
        index,
    )
    .fetch_optional(db)
    .await
}
