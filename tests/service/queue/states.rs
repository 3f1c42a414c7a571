//! The queue as a state machine: whatever happens in whatever order, no job is lost and none ends twice.
//!
//! Each case runs operations on a real database and on a model, and compares them after every operation.

mod model;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use sqlx::PgPool;
use vstar::db;
use vstar::db::job::NewJob;
use vstar::domain::code::Code;
use vstar::domain::id::{JobId, ProjectId};
use vstar::domain::job::schedule::Schedule;
use vstar::domain::job::{Failure, JobKind};
use vstar::reaper::{fail_overdue, take_back_expired};

use self::model::{End, Model};
use super::{MINUTE, failure};
use crate::harness::{advance, any_task};

/// Jobs of a case.
const JOBS: usize = 4;

/// What can happen. Numbers choose among the jobs, or among the leases that somebody holds, modulo their count.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// A worker takes up to so many jobs; all that wait for their time are ready by then.
    Claim(usize),
    Beat(usize),
    Checkpoint(usize),
    Finish(usize),
    Fail(usize),
    Retry(usize),
    HandBack(usize),
    /// The holder of a lease stops renewing it, and does not know that it will be taken away.
    Stall(usize),
    Cancel(usize),
    MissDeadline(usize),
    Reap,
}

fn op() -> impl Strategy<Value = Op> {
    let any = 0..64_usize;
    prop_oneof![
        5 => (1..4_usize).prop_map(Op::Claim),
        1 => any.clone().prop_map(Op::Beat),
        2 => any.clone().prop_map(Op::Checkpoint),
        2 => any.clone().prop_map(Op::Finish),
        1 => any.clone().prop_map(Op::Fail),
        2 => any.clone().prop_map(Op::Retry),
        2 => any.clone().prop_map(Op::HandBack),
        4 => any.clone().prop_map(Op::Stall),
        1 => any.clone().prop_map(Op::Cancel),
        1 => any.prop_map(Op::MissDeadline),
        4 => Just(Op::Reap),
    ]
}

/// An error that stays.
fn final_failure() -> Failure {
    Failure { code: Code::InvalidInput, retryable: false, ..failure() }
}

/// A lease that somebody holds, or believes to.
#[derive(Clone, Copy, Debug)]
struct Held {
    job: usize,
    fence: i64,
}

struct Case {
    db: PgPool,
    jobs: Vec<JobId>,
    model: Model,
    held: Vec<Held>,
}

impl Case {
    async fn new(db: &PgPool) -> Self {
        for table in ["job_attempt", "job_event", "job", "project_queue"] {
            let clear = format!("delete from {table}");
            sqlx::query(sqlx::AssertSqlSafe(clear)).execute(db).await.unwrap();
        }
        let mut jobs = Vec::new();
        for _ in 0..JOBS {
            let (job_id, task) = (JobId::generate(), any_task());
            let schedule = Schedule { finish_within_seconds: Some(1000), ..Schedule::default() };
            let job = NewJob { schedule, ..NewJob::new(job_id, &task, 1, 1.0) };
            db::job::enqueue(db, job).await.unwrap();
            jobs.push(job_id);
        }
        Self { db: db.clone(), jobs, model: Model::new(JOBS), held: Vec::new() }
    }

    fn holder(&self, choice: usize) -> Option<Held> {
        (!self.held.is_empty()).then(|| self.held[choice % self.held.len()])
    }

    /// Removes a lease whose holder has ended its work on it.
    fn drop_held(&mut self, held: Held) {
        self.held.retain(|one| (one.job, one.fence) != (held.job, held.fence));
    }

    async fn apply(&mut self, op: Op) -> Result<(), String> {
        let db = &self.db.clone();
        match op {
            Op::Claim(count) => {
                sqlx::query("update job set run_at = now()").execute(db).await.unwrap();
                let claimed = lease_merges(db, count).await;
                let expected = self.model.claim(count);
                let claimed: Vec<(usize, i64)> = claimed
                    .into_iter()
                    .map(|(job_id, fence)| {
                        (self.jobs.iter().position(|one| *one == job_id).unwrap(), fence)
                    })
                    .collect();
                same("claim", &claimed, &expected)?;
                self.held.extend(claimed.into_iter().map(|(job, fence)| Held { job, fence }));
            }
            Op::Beat(choice) => {
                let Some(held) = self.holder(choice) else { return Ok(()) };
                let told = db::job::renew_lease(db, self.jobs[held.job], held.fence, MINUTE)
                    .await
                    .unwrap();
                same("beat", &told, &self.model.beat(held.job, held.fence))?;
            }
            Op::Checkpoint(choice) => {
                let Some(held) = self.holder(choice) else { return Ok(()) };
                let told = advance(db, self.jobs[held.job], held.fence, 1).await;
                same("checkpoint", &told, &self.model.checkpoint(held.job, held.fence))?;
            }
            Op::Finish(choice) => {
                let Some(held) = self.holder(choice) else { return Ok(()) };
                let told = db::job::succeed(db, self.jobs[held.job], held.fence).await.unwrap();
                same("finish", &told, &self.model.end(held.job, held.fence, End::Succeeded))?;
                self.drop_held(held);
            }
            Op::Fail(choice) => {
                let Some(held) = self.holder(choice) else { return Ok(()) };
                let told = db::job::fail(db, self.jobs[held.job], held.fence, &final_failure())
                    .await
                    .unwrap();
                same(
                    "fail",
                    &told,
                    &self.model.end(held.job, held.fence, End::Failed(Code::InvalidInput)),
                )?;
                self.drop_held(held);
            }
            Op::Retry(choice) => {
                let Some(held) = self.holder(choice) else { return Ok(()) };
                let told = db::job::retry(db, self.jobs[held.job], held.fence, &failure(), MINUTE)
                    .await
                    .unwrap();
                same("retry", &told, &self.model.retry(held.job, held.fence, failure().code))?;
                self.drop_held(held);
            }
            Op::HandBack(choice) => {
                let Some(held) = self.holder(choice) else { return Ok(()) };
                let reason = Failure::worker_stopped();
                let mut told =
                    db::job::hand_back(db, self.jobs[held.job], held.fence, &reason).await.unwrap();
                if !told {
                    told = db::job::stop(db, self.jobs[held.job], held.fence).await.unwrap();
                }
                same("hand back", &told, &self.model.hand_back(held.job, held.fence))?;
                self.drop_held(held);
            }
            Op::Stall(choice) => {
                let Some(held) = self.holder(choice) else { return Ok(()) };
                let expire = "update job set lease_expires_at = now() - interval '1 second'
                    where job_id = $1 and fence = $2 and state = 'running'";
                let expire = sqlx::query(expire).bind(self.jobs[held.job].0).bind(held.fence);
                expire.execute(db).await.unwrap();
                self.model.stall(held.job, held.fence);
            }
            Op::Cancel(choice) => {
                let job = choice % JOBS;
                db::job::cancel(db, ProjectId::DEFAULT, self.jobs[job], JobKind::Merge)
                    .await
                    .unwrap();
                self.model.cancel(job);
            }
            Op::MissDeadline(choice) => {
                let job = choice % JOBS;
                let miss =
                    "update job set finish_before = now() - interval '1 second' where job_id = $1";
                sqlx::query(miss).bind(self.jobs[job].0).execute(db).await.unwrap();
                self.model.miss_deadline(job);
            }
            Op::Reap => {
                take_back_expired(db).await.unwrap();
                fail_overdue(db).await.unwrap();
                self.model.reap();
            }
        }
        self.compare().await
    }

    /// Compares the catalog with the model.
    async fn compare(&self) -> Result<(), String> {
        for (index, job_id) in self.jobs.iter().enumerate() {
            let job =
                db::job::find(&self.db, ProjectId::DEFAULT, *job_id, JobKind::Merge).await.unwrap();
            let job = job.ok_or("a job is lost")?;
            let attempts = db::attempt::of_jobs(&self.db, &[*job_id]).await.unwrap();
            let attempts: Vec<(i32, Code)> = attempts
                .get(job_id)
                .into_iter()
                .flatten()
                .map(|attempt| (attempt.attempt, attempt.reason.code))
                .collect();
            let events = db::event::after(&self.db, *job_id, 0, 1000).await.unwrap();
            let ends = events.iter().filter(|event| event.status.is_terminal()).count();
            let barren: i32 =
                sqlx::query_scalar("select barren_attempts from job where job_id = $1")
                    .bind(job_id.0)
                    .fetch_one(&self.db)
                    .await
                    .unwrap();
            let expected = &self.model.jobs[index];
            same("state", &job.state, &expected.state)?;
            same("attempts", &job.attempts, &expected.attempts)?;
            same("barren attempts", &barren, &expected.barren)?;
            same("ended attempts", &attempts, &expected.ended_attempts)?;
            same("error", &job.error.map(|error| error.code), &expected.error)?;
            let has_ended = usize::from(job.finished_at.is_some());
            same("terminal events", &ends, &has_ended)?;
        }
        Ok(())
    }

    /// Lets every worker crash until nothing is left to do: then every job has ended, after a bounded number of attempts.
    async fn crash_to_the_end(&mut self) -> Result<(), String> {
        for _ in 0..2 * JOBS * 4 {
            sqlx::query("update job set lease_expires_at = now() - interval '1 second' where state = 'running'")
                .execute(&self.db)
                .await
                .unwrap();
            self.model.stall_all();
            self.apply(Op::Reap).await?;
            self.apply(Op::Claim(1)).await?;
        }
        match self.model.jobs.iter().find(|job| job.is_open()) {
            None => Ok(()),
            Some(job) => Err(format!("it never ends: {job:?}")),
        }
    }
}

fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    actual: &T,
    expected: &T,
) -> Result<(), String> {
    if actual == expected {
        Ok(())
    } else {
        Err(format!("{what}: {actual:?}, and the model says {expected:?}"))
    }
}

async fn lease_merges(db: &PgPool, count: usize) -> Vec<(JobId, i64)> {
    super::lease_of_kind(db, JobKind::Merge, count, MINUTE).await
}

async fn run(db: &PgPool, ops: &[Op]) -> Result<(), String> {
    let mut case = Case::new(db).await;
    for (index, op) in ops.iter().enumerate() {
        case.apply(*op).await.map_err(|error| format!("{error}, at operation {index}, {op:?}"))?;
    }
    case.crash_to_the_end().await
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_order_of_operations_keeps_every_job_and_ends_it_once(db: PgPool) {
    // More with VSTAR_QUEUE_CASES, as `make test-faults` has it.
    let cases = std::env::var("VSTAR_QUEUE_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    for _ in 0..cases.unwrap_or(60) {
        let mut tree = prop::collection::vec(op(), 1..50).new_tree(&mut runner).unwrap();
        let Err(mut error) = run(&db, &tree.current()).await else { continue };
        let mut smallest = tree.current();
        let mut goes_on = tree.simplify();
        while goes_on {
            goes_on = match run(&db, &tree.current()).await {
                Ok(()) => tree.complicate(),
                Err(of_smaller) => {
                    (error, smallest) = (of_smaller, tree.current());
                    tree.simplify()
                }
            };
        }
        panic!("{error}, after {smallest:#?}");
    }
}

/// The same end is not written twice by the catalog's own rules either.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_stalled_worker_whose_job_ran_elsewhere_changes_nothing(db: PgPool) {
    let stall = [Op::Claim(1), Op::Stall(0), Op::Reap, Op::Claim(1), Op::Finish(1), Op::Finish(0)];
    run(&db, &stall).await.unwrap();
    let fail = [Op::Claim(1), Op::Stall(0), Op::Reap, Op::Claim(1), Op::Fail(0), Op::HandBack(0)];
    run(&db, &fail).await.unwrap();
}
