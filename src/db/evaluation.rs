//! Table `evaluation_sample`: which samples make the images of an evaluation.
//!
//! An evaluation is a job that waits until its samples have ended, so no worker is kept busy by waiting. The schema counts
//! the samples that end. Statements that lock both lock samples before their evaluation, because that is the order in
//! which a sample's end does.

use sqlx::PgExecutor;
use sqlx::types::Json;
use uuid::Uuid;

use crate::domain::id::{JobId, SampleId};
use crate::domain::job::{Failure, JobState};

/// A sample of an evaluation and how it stands.
#[derive(Clone, Debug)]
pub struct EvaluationSampleState {
    pub sample_id: SampleId,
    pub subject: usize,
    pub prompt: usize,
    pub state: JobState,
    pub error: Option<Failure>,
}

/// Links samples that are queued to their evaluation.
///
/// - `samples`: each with its subject and prompt, as places in the evaluation's lists
pub async fn link_samples(
    db: impl PgExecutor<'_>,
    evaluation_id: JobId,
    samples: &[(JobId, usize, usize)],
) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = samples.iter().map(|(sample, ..)| sample.0).collect();
    let subjects: Vec<i32> = samples.iter().map(|(_, subject, _)| *subject as i32).collect();
    let prompts: Vec<i32> = samples.iter().map(|(.., prompt)| *prompt as i32).collect();
    sqlx::query!(
        "insert into evaluation_sample (sample_id, evaluation_id, subject, prompt)
        select sample_id, $1, subject, prompt
        from unnest($2::uuid[], $3::integer[], $4::integer[]) as given (sample_id, subject, prompt)",
        evaluation_id.0,
        &ids,
        &subjects,
        &prompts,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Lists the samples of an evaluation in the order in which they were queued.
pub async fn samples_of(
    db: impl PgExecutor<'_>,
    evaluation_id: JobId,
) -> sqlx::Result<Vec<EvaluationSampleState>> {
    let rows = sqlx::query!(
        r#"
        select sample_id as "sample_id: SampleId", subject, prompt, state as "state: JobState",
            error as "error: Json<Failure>"
        from evaluation_sample join job on job_id = sample_id
        where evaluation_id = $1
        order by sample_id
        "#,
        evaluation_id.0,
    )
    .fetch_all(db)
    .await?;
    let samples = rows.into_iter().map(|row| EvaluationSampleState {
        sample_id: row.sample_id,
        subject: row.subject as usize,
        prompt: row.prompt as usize,
        state: row.state,
        error: row.error.map(|error| error.0),
    });
    Ok(samples.collect())
}

/// Asks all samples of an evaluation to stop: a queued one ends at once, a running one at its next step.
pub async fn cancel_samples(db: impl PgExecutor<'_>, evaluation_id: JobId) -> sqlx::Result<()> {
    sqlx::query!(
        "
        update job
        set cancel_requested = true,
            state = case when state = 'queued' then 'canceled' else state end,
            finished_at = case when state = 'queued' then now() end
        where state in ('queued', 'running') and job_id in (
            select job_id from job
            where job_id in (select sample_id from evaluation_sample where evaluation_id = $1)
            order by job_id for update
        )
        ",
        evaluation_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Asks the other samples of a sample's evaluation to stop: with the first that fails, the evaluation does. Changes nothing if
/// the job is no sample of an evaluation.
pub async fn cancel_siblings(db: impl PgExecutor<'_>, sample_id: JobId) -> sqlx::Result<()> {
    sqlx::query!(
        "
        update job
        set cancel_requested = true,
            state = case when state = 'queued' then 'canceled' else state end,
            finished_at = case when state = 'queued' then now() end
        where state in ('queued', 'running') and job_id in (
            select job_id from job
            where job_id in (
                select other.sample_id from evaluation_sample as failed
                    join evaluation_sample as other using (evaluation_id)
                where failed.sample_id = $1
            )
            order by job_id for update
        )
        ",
        sample_id.0,
    )
    .execute(db)
    .await?;
    Ok(())
}
