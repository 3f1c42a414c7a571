//! Attempts: what counts against the limit, and what is told of those that ended early.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::db;
use vstar::domain::code::Code;
use vstar::domain::id::{JobId, MergeId, ProjectId};
use vstar::domain::job::attempt::Attempt;
use vstar::domain::job::{Failure, Job, JobKind, JobState, LeasedJob, Metric, Phase};
use vstar::reaper::take_back_expired;

use super::{MINUTE, enqueue, failure};
use crate::harness::{Service, advance, lease};

/// Leases the job now, whatever it waits for.
async fn lease_at_once(db: &PgPool, worker: &str, duration: Duration) -> Option<LeasedJob> {
    sqlx::query("update job set run_at = now()").execute(db).await.unwrap();
    lease(db, worker, duration).await
}

async fn job(db: &PgPool, job_id: JobId) -> Job {
    db::job::find(db, ProjectId::DEFAULT, job_id, JobKind::Merge).await.unwrap().unwrap()
}

async fn attempts(db: &PgPool, job_id: JobId) -> Vec<Attempt> {
    db::attempt::of_jobs(db, &[job_id]).await.unwrap().remove(&job_id).unwrap_or_default()
}

async fn barren_attempts(db: &PgPool, job_id: JobId) -> i32 {
    let query = "select barren_attempts from job where job_id = $1";
    sqlx::query_scalar(query).bind(job_id.0).fetch_one(db).await.unwrap()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_that_kills_its_workers_fails_with_the_reason_of_each_attempt(db: PgPool) {
    let job_id = enqueue(&db).await;

    for attempt in 1..=3 {
        let worker = format!("gpu-{attempt}");
        let leased = lease_at_once(&db, &worker, Duration::ZERO).await.unwrap();
        assert_eq!(leased.attempts, attempt);
        take_back_expired(&db).await.unwrap();
    }

    assert!(lease_at_once(&db, "gpu-0", MINUTE).await.is_none());
    let (job, attempts) = (job(&db, job_id).await, attempts(&db, job_id).await);
    let error = job.error.unwrap();
    assert_eq!((job.state, error.code), (JobState::Failed, Code::WorkerLost));
    for attempt in 1..=3 {
        let told = format!("attempt {attempt}: gpu-{attempt} stopped");
        assert!(error.detail.contains(&told), "{}", error.detail);
    }
    assert_eq!(attempts.len(), 3);
    for attempt in &attempts {
        assert_eq!(attempt.reason.code, Code::WorkerLost);
        assert_eq!(attempt.worker, Some(format!("gpu-{}", attempt.attempt)));
        assert!(attempt.started_at.unwrap() <= attempt.ended_at);
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_first_lost_worker_costs_no_time_and_later_ones_do(db: PgPool) {
    let job_id = enqueue(&db).await;

    lease(&db, "gpu-0", Duration::ZERO).await.unwrap();
    take_back_expired(&db).await.unwrap();
    assert_eq!(lease(&db, "gpu-1", Duration::ZERO).await.unwrap().job_id, job_id);
    take_back_expired(&db).await.unwrap();

    assert!(lease(&db, "gpu-2", MINUTE).await.is_none(), "it waits");
    let query = "select extract(epoch from run_at - now())::float8 from job";
    let wait: f64 = sqlx::query_scalar(query).fetch_one(&db).await.unwrap();
    assert!((15.0..=24.0).contains(&wait), "20 s ± 20 %, and not {wait}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_retry_waits_and_runs_out_of_attempts(db: PgPool) {
    let job_id = enqueue(&db).await;
    let retry = async |leased: &LeasedJob, delay| {
        db::job::retry(&db, job_id, leased.fence, &failure(), delay).await.unwrap()
    };

    let first = lease(&db, "gpu-0", MINUTE).await.unwrap();
    assert_eq!(retry(&first, MINUTE).await, Some(JobState::Queued));
    assert!(lease(&db, "gpu-0", MINUTE).await.is_none(), "not before its time");
    let second = lease_at_once(&db, "gpu-0", MINUTE).await.unwrap();
    assert_eq!(retry(&second, Duration::ZERO).await, Some(JobState::Queued));
    let third = lease(&db, "gpu-0", MINUTE).await.unwrap();

    assert_eq!(retry(&third, Duration::ZERO).await, Some(JobState::Failed));
    assert_eq!(job(&db, job_id).await.error, Some(failure()));
    let reasons: Vec<Failure> =
        attempts(&db, job_id).await.into_iter().map(|attempt| attempt.reason).collect();
    assert_eq!(reasons, [failure(), failure(), failure()]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_canceled_job_that_fails_with_an_error_that_may_pass_is_canceled(db: PgPool) {
    let job_id = enqueue(&db).await;
    for _ in 0..2 {
        lease_at_once(&db, "gpu-0", Duration::ZERO).await.unwrap();
        take_back_expired(&db).await.unwrap();
    }
    let last = lease_at_once(&db, "gpu-0", MINUTE).await.unwrap();

    db::job::cancel(&db, ProjectId::DEFAULT, job_id, JobKind::Merge).await.unwrap();
    let state = db::job::retry(&db, job_id, last.fence, &failure(), MINUTE).await.unwrap();

    assert_eq!(state, Some(JobState::Canceled));
    assert_eq!(job(&db, job_id).await.error, None);
    assert_eq!(attempts(&db, job_id).await.len(), 2, "the last one ended the job");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_that_workers_hand_back_is_never_given_up(db: PgPool) {
    let job_id = enqueue(&db).await;

    for attempt in 1..=10 {
        let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
        assert_eq!((leased.attempts, leased.barren_attempts), (attempt, 1));
        let reason = Failure::worker_stopped();
        assert!(db::job::hand_back(&db, job_id, leased.fence, &reason).await.unwrap());
    }

    assert_eq!(barren_attempts(&db, job_id).await, 0);
    let attempts = attempts(&db, job_id).await;
    assert_eq!(attempts.len(), 10);
    assert!(attempts.iter().all(|attempt| attempt.reason.code == Code::WorkerStopped));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_that_gets_further_each_time_is_never_given_up(db: PgPool) {
    let job_id = enqueue(&db).await;

    for step in 1..=10 {
        let leased = lease(&db, "gpu-0", Duration::ZERO).await.unwrap();
        assert!(advance(&db, job_id, leased.fence, step).await);
        assert_eq!(take_back_expired(&db).await.unwrap(), [(job_id, JobState::Queued)]);
    }
    for last in [false, false, true] {
        lease_at_once(&db, "gpu-0", Duration::ZERO).await.unwrap();
        let state = if last { JobState::Failed } else { JobState::Queued };
        assert_eq!(take_back_expired(&db).await.unwrap(), [(job_id, state)]);
    }
    assert_eq!(job(&db, job_id).await.attempts, 13);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_attempt_at_a_training_tells_how_far_it_came(db: PgPool) {
    let service = Service::start(db.clone()).await;
    service.concept_with_photos("rex", 4).await;
    let path = {
        let answer = service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await;
        format!("/v1/trainings/{}", answer.text("id"))
    };
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    let step = |step| Metric { step, loss: 1.0, grad_norm: None };
    db::metric::record(&db, leased.job_id, leased.fence, &[step(1), step(2), step(3)])
        .await
        .unwrap();
    db::job::report(&db, leased.job_id, leased.fence, Phase::Storing, None, Duration::ZERO)
        .await
        .unwrap();

    take_back_expired(&db).await.unwrap();

    let training = service.get(&path).await.body;
    assert_eq!((&training["status"], &training["attempt"]), (&json!("queued"), &json!(1)));
    let attempt = &training["previous_attempts"][0];
    assert_eq!((&attempt["attempt"], &attempt["reached_step"]), (&json!(1), &json!(3)));
    assert_eq!(attempt["resumed_from_step"], Value::Null);
    assert_eq!(attempt["reason"]["code"], "worker_lost");
    assert_eq!(attempt["reason"]["type"], "urn:vstar:problem:worker_lost");
    let listed = service.get("/v1/trainings").await.body;
    assert_eq!(listed["data"][0]["previous_attempts"], training["previous_attempts"]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_that_went_well_has_no_previous_attempts(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let job_id = enqueue(&db).await;
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    db::job::succeed(&db, job_id, leased.fence).await.unwrap();

    let merge = service.get(&format!("/v1/merges/{}", MergeId::from(job_id))).await.body;

    assert_eq!(merge["previous_attempts"], json!([]));
}
