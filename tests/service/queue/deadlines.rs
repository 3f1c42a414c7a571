//! Deadlines: their bounds, and what becomes of a job that misses one.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::db;
use vstar::domain::code::Code;
use vstar::domain::id::{JobId, ProjectId};
use vstar::domain::job::{Job, JobKind, JobState, Phase};
use vstar::reaper::fail_overdue;

use super::{MINUTE, enqueue};
use crate::harness::{DIGEST, Service, lease};

const YEAR: u64 = 31_536_000;

async fn job(db: &PgPool, job_id: JobId) -> Job {
    db::job::find(db, ProjectId::DEFAULT, job_id, JobKind::Merge).await.unwrap().unwrap()
}

/// Lets a deadline of all jobs pass.
async fn miss(db: &PgPool, deadline: &str) {
    let change = format!("update job set {deadline} = now() - interval '1 second'");
    sqlx::query(sqlx::AssertSqlSafe(change)).execute(db).await.unwrap();
}

/// Every request that queues a job, as far as it goes without deadlines.
async fn requests(service: &Service) -> Vec<(String, Value)> {
    let (_, rex) = service.trained_concept("rex", DIGEST).await;
    service.trained_concept("tom", DIGEST).await;
    let evaluation = json!({
        "subjects": [{ "concepts": [{ "concept": "rex" }] }], "prompts": ["photo of a {}"], "images_per_prompt": 2,
    });
    vec![
        ("/v1/trainings".to_owned(), json!({ "concepts": ["rex"] })),
        ("/v1/samples".to_owned(), json!({ "prompt": "a dog" })),
        (
            "/v1/merges".to_owned(),
            json!({ "concepts": [{ "concept": "rex" }, { "concept": "tom" }] }),
        ),
        (format!("/v1/deltas/{rex}/compress"), json!({ "rank": 2 })),
        ("/v1/evaluations".to_owned(), evaluation),
    ]
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_job_takes_deadlines_from_a_second_to_a_year(db: PgPool) {
    let service = Service::with_evaluator(db).await;
    for (path, body) in requests(&service).await {
        for field in ["start_within_seconds", "finish_within_seconds"] {
            let with = |seconds: Value| {
                let mut body = body.clone();
                body[field] = seconds;
                service.post(&path, body)
            };
            for seconds in [1, 86_400, YEAR] {
                let answer = with(json!(seconds)).await;
                assert_eq!(answer.status, 202, "{path} {field} {seconds}: {answer:?}");
            }
            for seconds in [0, YEAR + 1, 1 << 31, 1 << 53] {
                let answer = with(json!(seconds)).await;
                let pointer = format!("/{field}");
                assert_eq!(answer.problem(), (422, "out_of_range", vec![pointer.as_str()]));
                let detail = answer.body["errors"][0]["detail"].as_str().unwrap();
                assert!(detail.ends_with("is outside 1 to 31536000"), "{detail}");
            }
            for nonsense in [json!(-1), json!(1.5), json!("soon")] {
                assert_eq!(with(nonsense).await.status, 422);
            }
        }
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_deadline_of_a_year_is_a_year_away(db: PgPool) {
    let service = Service::start(db.clone()).await;

    let body =
        json!({ "prompt": "a dog", "finish_within_seconds": YEAR, "start_within_seconds": 1 });
    let answer = service.post("/v1/samples", body).await;

    let query = "select extract(epoch from finish_before - created_at)::bigint from job";
    let seconds: i64 = sqlx::query_scalar(query).fetch_one(&db).await.unwrap();
    assert_eq!(seconds, YEAR as i64);
    assert!(answer.text("finish_before") > answer.text("start_before"));
    assert_eq!(fail_overdue(&db).await.unwrap(), []);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_that_was_not_started_in_time_is_not_started_any_more(db: PgPool) {
    let job_id = enqueue(&db).await;
    miss(&db, "start_before").await;

    assert!(lease(&db, "gpu-0", MINUTE).await.is_none());
    assert_eq!(fail_overdue(&db).await.unwrap(), [(job_id, JobState::Failed)]);

    let error = job(&db, job_id).await.error.unwrap();
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert!(error.detail.contains("start_within_seconds"), "{}", error.detail);
    assert_eq!(fail_overdue(&db).await.unwrap(), []);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_that_has_started_has_met_its_first_deadline(db: PgPool) {
    let job_id = enqueue(&db).await;
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    let reason = super::failure();
    db::job::retry(&db, job_id, leased.fence, &reason, Duration::ZERO).await.unwrap();
    miss(&db, "start_before").await;

    assert_eq!(fail_overdue(&db).await.unwrap(), []);

    assert_eq!(lease(&db, "gpu-1", MINUTE).await.unwrap().job_id, job_id);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_running_job_that_does_not_end_in_time_fails_and_its_worker_is_fenced_off(db: PgPool) {
    let job_id = enqueue(&db).await;
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    miss(&db, "finish_before").await;

    assert_eq!(fail_overdue(&db).await.unwrap(), [(job_id, JobState::Failed)]);

    let (fence, phase) = (leased.fence, Phase::Storing);
    assert_eq!(db::job::report(&db, job_id, fence, phase, None, MINUTE).await.unwrap(), None);
    assert!(!db::job::succeed(&db, job_id, fence).await.unwrap());
    let error = job(&db, job_id).await.error.unwrap();
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert!(error.detail.contains("finish_within_seconds"), "{}", error.detail);
    let attempts = db::attempt::of_jobs(&db, &[job_id]).await.unwrap();
    assert_eq!(attempts[&job_id][0].reason, error);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_that_is_to_stop_and_misses_its_deadline_is_canceled(db: PgPool) {
    let job_id = enqueue(&db).await;
    lease(&db, "gpu-0", MINUTE).await.unwrap();
    db::job::cancel(&db, ProjectId::DEFAULT, job_id, JobKind::Merge).await.unwrap();
    miss(&db, "finish_before").await;

    assert_eq!(fail_overdue(&db).await.unwrap(), [(job_id, JobState::Canceled)]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_evaluation_has_started_with_its_first_sample_and_ends_with_all_of_them(db: PgPool) {
    let service = Service::with_evaluator(db.clone()).await;
    let (path, body) = requests(&service).await.pop().unwrap();
    let statuses = async |path: String| {
        let samples = service.get("/v1/samples").await;
        let samples = samples.body["data"].as_array().unwrap().clone();
        let of_samples: Vec<Value> =
            samples.iter().map(|sample| sample["status"].clone()).collect();
        (service.get(&path).await.text("status"), of_samples)
    };
    let started = service.post(&path, body).await.header("location").to_owned();
    lease(&db, "gpu-0", MINUTE).await.unwrap();
    sqlx::query("update job set start_before = now() where kind = 'evaluation'")
        .execute(&db)
        .await
        .unwrap();
    assert_eq!(fail_overdue(&db).await.unwrap(), []);
    assert_eq!(statuses(started.clone()).await, ("queued".to_owned(), vec![json!("running")]));

    sqlx::query("update job set finish_before = now() where kind = 'evaluation'")
        .execute(&db)
        .await
        .unwrap();
    assert_eq!(fail_overdue(&db).await.unwrap().len(), 1);

    assert_eq!(statuses(started).await, ("failed".to_owned(), vec![json!("canceling")]));
}
