//! Table `evaluation_sample`: which samples make the images of an evaluation.
//!
//! An evaluation is a job that waits until its samples have ended, so no worker is kept busy by waiting. The schema counts
//! the samples that end. Statements that lock both lock samples before their evaluation, because that is the order in
//! which a sample's end does.

use sqlx::PgExecutor;
use sqlx::types::Json;
use uuid::Uuid;

use crate::domain::evaluation::EvaluationSample;
use crate::domain::id::{JobId, SampleId};
use crate::domain::job::{Failure, JobKind, JobState, Task};

/// A sample of an evaluation and how it stands.
#[derive(Clone, Debug)]
pub struct EvaluationSampleState {
    pub sample_id: SampleId,
    pub subject: usize,
    pub prompt: usize,
    pub state: JobState,
    pub error: Option<Failure>,
}

/// A sample to queue.
#[derive(Clone, Debug)]
pub struct NewSampleJob {
    pub sample: EvaluationSample,
    /// [`Task::batch_elements`] for the base model that is served.
    pub batch_elements: usize,
    /// Estimated seconds of work.
    pub cost: f64,
}

/// Queues the samples of an evaluation, at places that follow each other; see [`super::job::enqueue`].
///
/// - `rank`: their priority
pub async fn enqueue_samples(
    db: impl PgExecutor<'_>,
    evaluation_id: JobId,
    samples: Vec<NewSampleJob>,
    rank: i16,
    project_id: Uuid,
) -> sqlx::Result<()> {
    let (mut ids, mut tasks, mut elements) = (Vec::new(), Vec::new(), Vec::new());
    let (mut subjects, mut prompts, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    let mut base_digest = String::new();
    for NewSampleJob { sample, batch_elements, cost } in samples {
        sample.task.base_digest.as_str().clone_into(&mut base_digest);
        ids.push(JobId::generate().0);
        tasks.push(Json(Task::Sample(sample.task)));
        elements.push(i32::try_from(batch_elements).unwrap_or(i32::MAX));
        costs.push(cost);
        subjects.push(sample.subject as i32);
        prompts.push(sample.prompt as i32);
    }
    sqlx::query!(
        "
        with place as (
            select coalesce(
                (select virtual_finish from job
                where state = 'queued' and kind = $7 and needs_base = $9 and waits_for = 0 and priority = $8
                    and run_at <= now()
                order by virtual_finish limit 1),
                (select max(virtual_finish) from project_queue where kind = $7),
                0
            ) as virtual_time
        ), project as (
            insert into project_queue (project_id, kind, virtual_finish)
            select $10::uuid, $7, virtual_time + $12::float8 from place
            on conflict (project_id, kind) do update
            set virtual_finish = greatest(project_queue.virtual_finish, excluded.virtual_finish - $12)
                + $12 / project_queue.weight
            returning virtual_finish, weight
        ), queued as (
            insert into job (job_id, kind, task, rows, priority, project_id, virtual_finish)
            select sample_id, $7, task, rows, $8, $10,
                virtual_finish - ($12 - sum(cost) over (order by number)) / weight
            from project, unnest($2::uuid[], $3::jsonb[], $4::integer[], $11::float8[])
                with ordinality as given (sample_id, task, rows, cost, number)
            returning job_id
        ), linked as (
            insert into evaluation_sample (sample_id, evaluation_id, subject, prompt)
            select sample_id, $1, subject, prompt
            from unnest($2::uuid[], $5::integer[], $6::integer[]) as given (sample_id, subject, prompt)
        )
        select count(*) from queued
        ",
        evaluation_id.0,
        &ids,
        &tasks as &[Json<Task>],
        &elements,
        &subjects,
        &prompts,
        JobKind::Sample.as_str(),
        rank,
        base_digest,
        project_id,
        &costs,
        costs.iter().sum::<f64>(),
    )
    .fetch_one(db)
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
