//! The tail of the queue: where a new job gets its place.
//!
//! Jobs of one kind run by priority, and within a priority by their virtual finish. That is start-time fair queueing: a new
//! job starts, virtually, where its project's last one finishes, but not before the place where the queue is now. So a
//! project that queues many jobs waits behind itself, and one that comes later with few does not wait behind all of them. As
//! the virtual time is that of the queue and not of a clock, it does not matter how right the estimates are or how many
//! workers there are.

use std::time::Duration;

use sqlx::PgExecutor;
use sqlx::types::Json;
use uuid::Uuid;

use super::QUEUED_CHANNEL;
use crate::domain::id::{JobId, ProjectId};
use crate::domain::job::schedule::Schedule;
use crate::domain::job::{JobKind, Task};
use crate::domain::record::{ExternalId, Labels, Metadata};
use crate::domain::warning::Warning;

/// A job to queue.
#[derive(Clone, Copy, Debug)]
pub struct NewJob<'a> {
    pub job_id: JobId,
    pub task: &'a Task,
    /// [`Task::batch_elements`] for the base model that is served.
    pub batch_elements: usize,
    /// Estimated seconds of work: [`crate::domain::job::cost::estimate`].
    pub cost: f64,
    pub schedule: Schedule,
    /// Whether it is a sample of an evaluation: these let all others go first.
    pub is_of_evaluation: bool,
    /// The number of jobs that have to end before a worker takes this one; see [`crate::db::evaluation`].
    pub waits_for: usize,
    /// What a worker needs at least for it, beside the base model's weights.
    pub memory_bytes: u64,
    /// What its request is accepted with.
    pub warnings: &'a [Warning],
    /// Whose it is.
    pub project_id: ProjectId,
    /// What the client has attached to it; `None` for nothing.
    pub labels: Option<&'a Labels>,
    /// The id of the request that asked for it.
    pub request_id: Option<&'a str>,
    /// The trace that the request was part of, as W3C's `traceparent`.
    pub traceparent: Option<&'a str>,
}

impl<'a> NewJob<'a> {
    /// A job of the default project and of no special schedule.
    pub fn new(job_id: JobId, task: &'a Task, batch_elements: usize, cost: f64) -> Self {
        Self {
            job_id,
            task,
            batch_elements,
            cost,
            schedule: Schedule::default(),
            is_of_evaluation: false,
            waits_for: 0,
            memory_bytes: 0,
            warnings: &[],
            project_id: ProjectId::DEFAULT,
            labels: None,
            request_id: None,
            traceparent: None,
        }
    }
}

const MIB: u64 = 1024 * 1024;

/// Appends a job to the queue. [`announce`] tells idle workers, once the transaction has committed.
pub async fn enqueue(db: impl PgExecutor<'_>, job: NewJob<'_>) -> sqlx::Result<()> {
    enqueue_all(db, &[job]).await
}

/// Appends jobs at places that follow each other. They are of one kind, base model, project and schedule, and have the same
/// labels: those of the first count.
pub async fn enqueue_all(db: impl PgExecutor<'_>, jobs: &[NewJob<'_>]) -> sqlx::Result<()> {
    let Some(first) = jobs.first() else { return Ok(()) };
    let NewJob { schedule, task, project_id, .. } = *first;
    let rank = match first.is_of_evaluation {
        true => schedule.priority.rank_of_samples(),
        false => schedule.priority.rank(),
    };
    let seconds =
        |within: Option<u64>| within.map(|seconds| Duration::from_secs(seconds).as_secs_f64());
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.job_id.0).collect();
    let tasks: Vec<Json<&Task>> = jobs.iter().map(|job| Json(job.task)).collect();
    let rows = jobs.iter().map(|job| i32::try_from(job.batch_elements).unwrap_or(i32::MAX));
    let warnings: Vec<Json<&[Warning]>> = jobs.iter().map(|job| Json(job.warnings)).collect();
    let costs: Vec<f64> = jobs.iter().map(|job| job.cost).collect();
    let samples = jobs.iter().map(|job| match job.task {
        Task::Sample(sample) => Some(sample),
        Task::Training(_) | Task::Merge(_) | Task::Evaluation(_) | Task::Compression(_) => None,
    });
    let prompts = samples.clone().map(|sample| sample.map(|sample| sample.prompt.to_lowercase()));
    let seeds = samples.map(|sample| i64::try_from(sample?.settings.seed).ok());
    sqlx::query!(
        r#"
        with place as (
            select coalesce(
                (select virtual_finish from job
                where state = 'queued' and kind = $1 and needs_base = $2 and waits_for = 0 and priority = $3
                    and run_at <= now()
                order by virtual_finish limit 1),
                (select max(virtual_finish) from project_queue where kind = $1),
                0
            ) as virtual_time
        ), project as (
            insert into project_queue (project_id, kind, virtual_finish)
            select $4::uuid, $1, virtual_time + $5::float8 from place
            on conflict (project_id, kind) do update
            set virtual_finish = greatest(project_queue.virtual_finish, excluded.virtual_finish - $5)
                + $5 / project_queue.weight
            returning virtual_finish, weight
        )
        insert into job (job_id, kind, task, rows, priority, project_id, virtual_finish, max_attempts, start_before,
            finish_before, waits_for, progress, needs_memory_mib, metadata, external_id, cost, warnings,
            request_id, traceparent, sample_prompt, sample_seed)
        select given.job_id, $1, given.task, given.rows, $3, $4,
            virtual_finish - ($5 - sum(cost) over (order by number)) / weight, $6,
            now() + make_interval(secs => $7), now() + make_interval(secs => $8), $9::integer,
            case when $9 > 0 then jsonb_build_object('step', 0, 'total_steps', $9) end, $10, coalesce($15::jsonb, '{}'), $16,
            given.cost, given.warnings, $18, $19, given.prompt, given.seed
        from project, unnest($11::uuid[], $12::jsonb[], $13::integer[], $14::float8[], $17::jsonb[],
                $20::text[], $21::bigint[])
            with ordinality as given (job_id, task, rows, cost, warnings, prompt, seed, number)
        "#,
        task.kind().as_str(),
        task.base_digest().as_str(),
        rank,
        project_id.0,
        costs.iter().sum::<f64>(),
        task.kind().max_attempts(),
        seconds(schedule.start_within_seconds),
        seconds(schedule.finish_within_seconds),
        i32::try_from(first.waits_for).unwrap_or(i32::MAX),
        i32::try_from(first.memory_bytes.div_ceil(MIB)).unwrap_or(i32::MAX),
        &ids,
        &tasks as &[Json<&Task>],
        &rows.collect::<Vec<_>>(),
        &costs,
        first.labels.map(|labels| Json(&labels.metadata)) as Option<Json<&Metadata>>,
        first.labels.and_then(|labels| labels.external_id.as_ref()).map(ExternalId::as_str),
        &warnings as &[Json<&[Warning]>],
        first.request_id,
        first.traceparent,
        &prompts.collect::<Vec<_>>() as &[Option<String>],
        &seeds.collect::<Vec<_>>() as &[Option<i64>],
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Wakes idle workers because jobs of a kind have been queued. They also poll, in case this is lost.
pub async fn announce(db: impl PgExecutor<'_>, kind: JobKind) -> sqlx::Result<()> {
    sqlx::query!("select pg_notify($1, $2)", QUEUED_CHANNEL, kind.as_str()).execute(db).await?;
    Ok(())
}

/// Serializes the transactions that queue jobs of a kind, from here to their end. What one of them counts stays true
/// until it has queued its own job.
pub async fn take_turn(db: impl PgExecutor<'_>, kind: JobKind) -> sqlx::Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtext('job queue'), hashtext($1))",
        kind.as_str()
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Counts the jobs of a kind that wait. Samples of evaluations do not count: they let all others go first.
///
/// - `last_rank`: [`crate::domain::job::schedule::LAST_RANK`]
pub async fn count_queued(
    db: impl PgExecutor<'_>,
    kind: JobKind,
    last_rank: i16,
) -> sqlx::Result<i64> {
    sqlx::query_scalar!(
        r#"
        select count(*) as "count!" from job
        where state = 'queued' and kind = $1 and priority <= $2
        "#,
        kind as JobKind,
        last_rank,
    )
    .fetch_one(db)
    .await
}

/// Measures how many jobs of a kind end per second, over the last twenty that did; `None` before the first.
pub async fn rate(db: impl PgExecutor<'_>, kind: JobKind) -> sqlx::Result<Option<f64>> {
    sqlx::query_scalar!(
        r#"
        select (count(*) / greatest(extract(epoch from now() - min(finished_at)), 0.001))::float8
        from (
            select finished_at from job where kind = $1 and finished_at is not null
            order by finished_at desc limit 20
        ) as ended
        "#,
        kind as JobKind,
    )
    .fetch_one(db)
    .await
}
