//! Notifications of new jobs: few, fast, and not needed.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use vstar::db;

use crate::end_to_end::Whole;
use crate::harness::Service;

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn many_jobs_are_announced_at_once_and_few_times(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let mut listener = PgListener::connect_with(&db).await.unwrap();
    listener.listen(db::job::QUEUED_CHANNEL).await.unwrap();

    let began = Instant::now();
    let posts = (0..60).map(|_| service.post("/v1/samples", json!({ "prompt": "a dog" })));
    let answers = join_all(posts).await;
    let last = Instant::now();

    assert!(answers.iter().all(|answer| answer.status == 202));
    let mut heard = Vec::new();
    while let Ok(word) = tokio::time::timeout(Duration::from_millis(300), listener.recv()).await {
        assert_eq!(word.unwrap().payload(), "sample");
        heard.push(Instant::now());
    }
    let most = 2 + (last - began).as_millis() / 50;
    assert!(
        !heard.is_empty() && heard.len() as u128 <= most,
        "{} in {:?}",
        heard.len(),
        last - began
    );
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_worker_that_hears_nothing_finds_its_jobs(db: PgPool) {
    let whole = Whole::start(db.clone()).await;
    let first =
        whole.run("/v1/samples", json!({ "prompt": "a dog", "num_inference_steps": 1 })).await;
    assert_eq!(first.text("status"), "succeeded");

    // Queued by nobody who would announce it.
    let copy = "insert into job (job_id, kind, task, rows)
        select gen_random_uuid(), kind, task, rows from job";
    sqlx::query(copy).execute(&db).await.unwrap();

    let began = Instant::now();
    let query = "select count(*) from job where state = 'succeeded'";
    while sqlx::query_scalar::<_, i64>(query).fetch_one(&db).await.unwrap() < 2 {
        assert!(began.elapsed() < Duration::from_secs(30), "it is not found");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
