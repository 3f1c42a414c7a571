//! How long a new job would wait and run, from what is queued and what has been measured.

use sqlx::PgExecutor;

use crate::domain::job::JobKind;
use crate::domain::job::forecast::Load;

/// The most jobs that a speed is measured from.
const MEASURED_JOBS: i64 = 20;

/// Returns what is queued of a kind and how fast the last jobs of this kind have run.
///
/// - `rank`: of the new job's priority; jobs of lower priority run after it
pub async fn load(db: impl PgExecutor<'_>, kind: JobKind, rank: i16) -> sqlx::Result<Load> {
    sqlx::query_as!(
        Load,
        r#"
        with ended as (
            select extract(epoch from finished_at - coalesce(attempt_started_at, started_at))::float8 / cost as pace
            from job
            where kind = $1 and finished_at is not null and state = 'succeeded' and cost > 0 and started_at is not null
            order by finished_at desc limit $3
        ), ahead as (
            select count(*) as jobs, sum(coalesce(cost, 0)) as cost from job
            where state = 'queued' and kind = $1 and priority <= $2
        ), running as (
            select count(distinct worker) as workers,
                sum(coalesce(cost, 0) * (1 - least(1, greatest(0, coalesce(
                    (progress ->> 'step')::float8 / nullif((progress ->> 'total_steps')::float8, 0), 0))))) as cost
            from job where state = 'running' and kind = $1
        )
        select ahead.jobs as "jobs_ahead!", coalesce(ahead.cost, 0) + coalesce(running.cost, 0) as "cost_ahead!",
            running.workers as "workers!",
            (select percentile_cont(0.5) within group (order by pace) from ended) as seconds_per_cost,
            (select count(*) from ended) as "measured_jobs!"
        from ahead, running
        "#,
        kind as JobKind,
        rank,
        MEASURED_JOBS,
    )
    .fetch_one(db)
    .await
}
