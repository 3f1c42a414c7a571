//! Table `job_attempt`: attempts that did not end their job, or failed it. The schema writes it.

use std::collections::HashMap;

use sqlx::PgExecutor;
use sqlx::types::Json;

use crate::domain::id::JobId;
use crate::domain::job::Failure;
use crate::domain::job::attempt::Attempt;

/// The attempts of these jobs, each job's in order; a job without any is omitted.
pub async fn of_jobs(
    db: impl PgExecutor<'_>,
    jobs: &[JobId],
) -> sqlx::Result<HashMap<JobId, Vec<Attempt>>> {
    let rows = sqlx::query!(
        r#"
        select job_id as "job_id: JobId", attempt, worker, started_at, ended_at, reason as "reason: Json<Failure>",
            resumed_from_step, reached_step
        from job_attempt
        where job_id = any($1)
        order by job_id, attempt
        "#,
        &jobs.iter().map(|job| job.0).collect::<Vec<_>>(),
    )
    .fetch_all(db)
    .await?;
    let mut attempts: HashMap<JobId, Vec<Attempt>> = HashMap::new();
    for row in rows {
        attempts.entry(row.job_id).or_default().push(Attempt {
            attempt: row.attempt,
            worker: row.worker,
            started_at: row.started_at,
            ended_at: row.ended_at,
            reason: row.reason.map_or_else(Failure::unknown, |reason| reason.0),
            resumed_from_step: row.resumed_from_step,
            reached_step: row.reached_step,
        });
    }
    Ok(attempts)
}
