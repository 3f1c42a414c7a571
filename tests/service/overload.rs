//! More work than there is room for: the queue is bounded, and who is refused is told when to try again.

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{Answer, DIGEST, Service};

async fn post_at_once(service: &Service, path: &str, body: &Value, times: usize) -> Vec<Answer> {
    join_all((0..times).map(|_| service.post(path, body.clone()))).await
}

async fn count_queued(db: &PgPool, kind: &str) -> i64 {
    let query = "select count(*) from job where state = 'queued' and kind = $1";
    sqlx::query_scalar(query).bind(kind).fetch_one(db).await.unwrap()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_bound_of_each_queue_holds_however_many_come_at_once(db: PgPool) {
    let service = Service::with_queue_limit(db.clone(), 5).await;
    let (_, rex) = service.trained_concept("rex", DIGEST).await;
    let (_, max) = service.trained_concept("max", DIGEST).await;
    let merge = json!({ "concepts": [{ "delta": rex }, { "delta": max }] });

    for (kind, path, body) in [
        ("sample", "/v1/samples", json!({ "prompt": "a dog" })),
        ("training", "/v1/trainings", json!({ "concepts": ["rex"] })),
        ("merge", "/v1/merges", merge),
    ] {
        let answers = post_at_once(&service, path, &body, 40).await;

        let (taken, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| answer.status == 202);
        assert_eq!((taken.len(), refused.len()), (5, 35), "{kind}");
        assert_eq!(count_queued(&db, kind).await, 5, "{kind}: none is lost, none is too many");
        for answer in &refused {
            assert_eq!(answer.problem(), (503, "queue_full", vec![]), "{answer:?}");
            assert_eq!(answer.body["retryable"], true);
            let seconds: u64 = answer.header("retry-after").parse().unwrap();
            assert!((1..=300).contains(&seconds), "{answer:?}");
        }
        for answer in &taken {
            assert_eq!(service.get(answer.header("location")).await.text("status"), "queued");
        }
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_place_that_becomes_free_is_given_again(db: PgPool) {
    let service = Service::with_queue_limit(db, 2).await;
    let body = json!({ "prompt": "a dog" });
    let answers = post_at_once(&service, "/v1/samples", &body, 3).await;
    let taken = answers.iter().find(|answer| answer.status == 202).unwrap();

    service.post(&format!("{}/cancel", taken.header("location")), json!({})).await;
    let next = post_at_once(&service, "/v1/samples", &body, 3).await;

    assert_eq!(next.iter().filter(|answer| answer.status == 202).count(), 1);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_hint_comes_from_the_pace_of_what_was_done(db: PgPool) {
    let service = Service::with_queue_limit(db.clone(), 30).await;
    let body = json!({ "prompt": "a dog" });
    post_at_once(&service, "/v1/samples", &body, 30).await;
    let hint = async || {
        let answer = service.post("/v1/samples", body.clone()).await;
        answer.header("retry-after").parse::<u64>().unwrap()
    };
    assert_eq!(hint().await, 30, "nobody knows yet");

    // Four samples in the last twenty seconds: a tenth of the queue, three, takes fifteen.
    sqlx::query(
        "update job set state = 'succeeded', finished_at = now() - make_interval(secs => 20 - 5 * place)
        from (select job_id, row_number() over (order by job_id) - 1 as place from job limit 4) as first
        where job.job_id = first.job_id",
    )
    .execute(&db)
    .await
    .unwrap();
    post_at_once(&service, "/v1/samples", &body, 4).await;

    assert!((15..=17).contains(&hint().await), "{}", hint().await);
}
