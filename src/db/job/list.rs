//! Lists of jobs, each filter with an index for its order.

use sqlx::PgExecutor;
use sqlx::types::Json;

use super::JobRow;
use crate::db::Page;
use crate::domain::id::{ConceptId, JobId, ProjectId};
use crate::domain::job::{Failure, Job, JobKind, JobState, JobStatus, Phase, Progress, Task};
use crate::domain::merge::MergeReport;
use crate::domain::page::Order;
use crate::domain::record::{ExternalId, Metadata};
use crate::domain::search::SearchText;
use crate::domain::warning::Warning;

/// Which jobs of a list are wanted.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    pub status: Option<JobStatus>,
    /// Those that learn the concept, or use a delta that contains it.
    pub concept: Option<ConceptId>,
    pub external_id: Option<ExternalId>,
    /// Samples whose prompt has these words.
    pub prompt: SearchText,
    /// Samples of this seed.
    pub seed: Option<i64>,
}

impl JobFilter {
    /// The state of a status, and whether the job has been asked to stop if that matters.
    fn state(&self) -> (Option<JobState>, Option<bool>) {
        match self.status {
            None => (None, None),
            Some(JobStatus::Queued) => (Some(JobState::Queued), None),
            Some(JobStatus::Running) => (Some(JobState::Running), Some(false)),
            Some(JobStatus::Canceling) => (Some(JobState::Running), Some(true)),
            Some(JobStatus::Succeeded) => (Some(JobState::Succeeded), None),
            Some(JobStatus::Failed) => (Some(JobState::Failed), None),
            Some(JobStatus::Canceled) => (Some(JobState::Canceled), None),
        }
    }
}

/// Lists a project's jobs of one kind.
pub async fn list(
    db: impl PgExecutor<'_>,
    project_id: ProjectId,
    kind: JobKind,
    filter: &JobFilter,
    page: Page,
) -> sqlx::Result<Vec<Job>> {
    let (state, cancel_requested) = filter.state();
    let words = filter.prompt.patterns();
    macro_rules! listed {
        ($from:tt, $filters:tt, $id:tt, $first:tt, $direction:tt) => {
            sqlx::query_as!(
                JobRow,
                r#"
                select job_id as "job_id: JobId", task as "task: Json<Task>", state as "state: JobState",
                    cancel_requested, priority, attempts, phase as "phase: Phase",
                    progress as "progress: Json<Progress>", error as "error: Json<Failure>",
                    merge_report as "merge_report: Json<MergeReport>",
                    warnings as "warnings: Json<Vec<Warning>>", revision, created_at, updated_at, started_at,
                    start_before, finish_before, first_step_at, finished_at,
                    metadata as "metadata: Json<Metadata>", external_id as "external_id: ExternalId",
                    case when state = 'queued' then (
                        select count(*) from job as ahead
                        where ahead.state = 'queued' and ahead.kind = job.kind
                            and (ahead.priority, ahead.virtual_finish, ahead.job_id)
                                < (job.priority, job.virtual_finish, job.job_id)
                    ) end as queue_position
                from "# + $from + " and " + $filters + " and created_at > $5 and created_at < $6
                    and ($8::boolean is null or cancel_requested = $8)
                order by " + $first + $id + " " + $direction + " limit $11",
                project_id.0,
                kind as JobKind,
                page.above(),
                page.below(),
                page.created_after(),
                page.created_before(),
                state as Option<JobState>,
                cancel_requested,
                filter.concept.map(|id| id.0),
                filter.external_id.as_ref().map(ExternalId::as_str),
                page.limit,
                &words,
                filter.seed,
            )
            .fetch_all(db)
            .await?
        };
        (all, $direction:tt) => {
            listed!(
                "job where project_id = $1 and job.kind = $2 and job_id > $3 and job_id < $4",
                "$7::text is null and $9::uuid is null and $10::text is null and $12::text[] = '{}' and $13::bigint is null",
                "job_id",
                "",
                $direction
            )
        };
        // As rows, so that the order is that of the index by state alone: equality would leave the choice of another index,
        // in which the jobs of a rare state are far apart.
        (state, $first:tt, $direction:tt) => {
            listed!(
                "job where project_id = $1 and job.kind = $2 and (state, job_id) > ($7, $3) and (state, job_id) < ($7, $4)",
                "$9::uuid is null and $10::text is null and $12::text[] = '{}' and $13::bigint is null",
                "job_id",
                $first,
                $direction
            )
        };
        (concept, $direction:tt) => {
            listed!(
                "job_use join job using (job_id)
                where used = $9 and job_use.kind = $2 and job_use.job_id > $3 and job_use.job_id < $4 and project_id = $1",
                "($7::text is null or state = $7) and $10::text is null and $12::text[] = '{}' and $13::bigint is null",
                "job_use.job_id",
                "",
                $direction
            )
        };
        (named, $direction:tt) => {
            listed!(by, "job where project_id = $1 and job.kind = $2 and external_id = $10", $direction)
        };
        (seed, $direction:tt) => {
            listed!(
                by,
                "job where project_id = $1 and job.kind = $2 and sample_seed = $13 and $10::text is null",
                $direction
            )
        };
        (prompt, $direction:tt) => {
            listed!(by, "job where project_id = $1 and job.kind = $2 and $10::text is null", $direction)
        };
        // With all other filters.
        (by, $from:tt, $direction:tt) => {
            listed!(
                $from,
                "job_id > $3 and job_id < $4 and ($7::text is null or state = $7) and sample_prompt like all($12)
                    and ($13::bigint is null or sample_seed = $13)
                    and ($9::uuid is null or exists (
                        select from job_use where used = $9 and job_use.kind = $2 and job_use.job_id = job.job_id
                    ))",
                "job_id",
                "",
                $direction
            )
        };
    }
    let by = match filter {
        JobFilter { external_id: Some(_), .. } => By::Name,
        JobFilter { seed: Some(_), .. } => By::Seed,
        JobFilter { .. } if !words.is_empty() => By::Prompt,
        JobFilter { concept: Some(_), .. } => By::Concept,
        JobFilter { status: Some(_), .. } => By::State,
        JobFilter { .. } => By::All,
    };
    let rows = match (by, page.order) {
        (By::Name, Order::Desc) => listed!(named, "desc"),
        (By::Name, Order::Asc) => listed!(named, "asc"),
        (By::Seed, Order::Desc) => listed!(seed, "desc"),
        (By::Seed, Order::Asc) => listed!(seed, "asc"),
        (By::Prompt, Order::Desc) => listed!(prompt, "desc"),
        (By::Prompt, Order::Asc) => listed!(prompt, "asc"),
        (By::Concept, Order::Desc) => listed!(concept, "desc"),
        (By::Concept, Order::Asc) => listed!(concept, "asc"),
        (By::State, Order::Desc) => listed!(state, "state desc, ", "desc"),
        (By::State, Order::Asc) => listed!(state, "state asc, ", "asc"),
        (By::All, Order::Desc) => listed!(all, "desc"),
        (By::All, Order::Asc) => listed!(all, "asc"),
    };
    Ok(rows.into_iter().map(Job::from).collect())
}

/// The filter by whose index a list is read: that which leaves the fewest rows.
#[derive(Clone, Copy)]
enum By {
    Name,
    Seed,
    /// Without an index of its own: all samples of the project are looked through, from the newest on.
    Prompt,
    Concept,
    State,
    All,
}
