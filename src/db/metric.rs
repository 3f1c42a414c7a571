//! Table `job_metric`: the loss curve of a training.

use sqlx::PgExecutor;

use crate::domain::id::JobId;
use crate::domain::job::Metric;

/// Writes points of a curve; a step that a second attempt takes again replaces the first.
///
/// Writes nothing unless the lease still holds.
pub async fn record(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    fence: i64,
    metrics: &[Metric],
) -> sqlx::Result<()> {
    sqlx::query!(
        "
        insert into job_metric (job_id, step, loss, grad_norm)
        select job.job_id, point.step, point.loss, point.grad_norm
        from job, unnest($3::integer[], $4::float8[], $5::float8[]) as point (step, loss, grad_norm)
        where job.job_id = $1 and job.fence = $2 and job.state = 'running'
        on conflict (job_id, step) do update set loss = excluded.loss, grad_norm = excluded.grad_norm
        ",
        job_id.0,
        fence,
        &metrics.iter().map(|metric| metric.step).collect::<Vec<_>>(),
        &metrics.iter().map(|metric| metric.loss).collect::<Vec<_>>(),
        &metrics.iter().map(|metric| metric.grad_norm).collect::<Vec<_>>() as &[Option<f64>],
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lists up to `limit` points of a curve after `step`.
pub async fn after(
    db: impl PgExecutor<'_>,
    job_id: JobId,
    step: i32,
    limit: i64,
) -> sqlx::Result<Vec<Metric>> {
    sqlx::query_as!(
        Metric,
        "select step, loss, grad_norm from job_metric where job_id = $1 and step > $2 order by step limit $3",
        job_id.0,
        step,
        limit,
    )
    .fetch_all(db)
    .await
}
