//! The state of a job without its task, which may be large.

use sqlx::PgExecutor;

use crate::domain::id::{JobId, ProjectId};
use crate::domain::job::{JobKind, JobState, JobStatus};

/// Where a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub status: JobStatus,
    /// The number of its newest event.
    pub revision: i64,
}

/// Returns where the job of this id is, if it is of this project and kind.
pub async fn standing(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    job_id: JobId,
    kind: JobKind,
) -> sqlx::Result<Option<Standing>> {
    let row = sqlx::query!(
        r#"
        select state as "state: JobState", cancel_requested, revision
        from job where job_id = $1 and kind = $2 and project_id = $3
        "#,
        job_id.0,
        kind as JobKind,
        project_id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Standing {
        status: JobStatus::new(row.state, row.cancel_requested),
        revision: row.revision,
    }))
}

/// Returns where these jobs are. Jobs that do not exist are omitted.
pub async fn standings(
    db: impl PgExecutor<'_>,
    jobs: &[JobId],
) -> sqlx::Result<Vec<(JobId, Standing)>> {
    let rows = sqlx::query!(
        r#"
        select job_id as "job_id: JobId", state as "state: JobState", cancel_requested, revision
        from job where job_id = any($1)
        "#,
        jobs as &[JobId],
    )
    .fetch_all(db)
    .await?;
    let standings = rows.into_iter().map(|row| {
        let status = JobStatus::new(row.state, row.cancel_requested);
        (row.job_id, Standing { status, revision: row.revision })
    });
    Ok(standings.collect())
}

/// Returns the revision of the job of this id, if it is of this project and kind. It stays as it is until the transaction ends.
pub async fn lock_revision(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    job_id: JobId,
    kind: JobKind,
) -> sqlx::Result<Option<i64>> {
    sqlx::query_scalar!(
        "select revision from job where job_id = $1 and kind = $2 and project_id = $3 for update",
        job_id.0,
        kind as JobKind,
        project_id.0,
    )
    .fetch_optional(db)
    .await
}
