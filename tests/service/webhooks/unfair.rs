//! One bad receiver is in nobody's way.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use vstar::db;

use super::receiver::{Behaviour, Receiver};
use super::{MINUTE, delivery, endpoint, start, start_training, until};
use crate::harness::lease;

/// Events that wait for an endpoint.
async fn queue_many(db: &PgPool, path: &str, count: i32) {
    let id: vstar::domain::id::WebhookEndpointId =
        path.rsplit('/').next().unwrap().parse().unwrap();
    let queued = sqlx::query(
        "insert into webhook_delivery (webhook_delivery_id, webhook_endpoint_id, event_type, object, object_id, next_attempt_at)
        select new_webhook_delivery_id(), $1, 'webhook.test', 'webhook_endpoint', $1, now() - interval '1 minute'
        from generate_series(1, $2)",
    );
    queued.bind(id.0).bind(count).execute(db).await.unwrap();
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_receiver_that_never_ends_its_answer_holds_nobody_up(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let slow = Receiver::start(Behaviour::Trickle(Duration::from_secs(1))).await;
    let healthy = Receiver::start(Behaviour::Status(200)).await;
    let (slow_path, _) = endpoint(&service, &slow.url()).await;
    queue_many(&db, &slow_path, 200).await;
    slow.wait_for(4).await;

    let (path, _) = endpoint(&service, &healthy.url()).await;
    let began = Instant::now();
    service.post(&format!("{path}/test"), json!({})).await;
    healthy.wait_for(1).await;

    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(slow.connections(), 4, "one endpoint has few connections");
    let attempted = slow.requests()[0].header("webhook-id");
    let attempted = format!("{slow_path}/deliveries/{attempted}");
    let log = until(&service, &attempted, |log| log["attempts"][0]["error"].is_string()).await;
    let error = log["attempts"][0]["error"].as_str().unwrap();
    assert!(error.contains("did not finish its answer within 15 s"), "{error}");
    assert_eq!(log["attempts"][0]["status_code"], 200);
    let duration = log["attempts"][0]["duration_ms"].as_i64().unwrap();
    assert!((14_000..20_000).contains(&duration), "{duration}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_answer_of_a_gigabyte_is_not_read(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let large = Receiver::start(Behaviour::Large(1 << 30)).await;
    let (path, _) = endpoint(&service, &large.url()).await;

    service.post(&format!("{path}/test"), json!({})).await;
    let log = delivery(&service, &path, |log| log["status"] == "succeeded").await;

    assert_eq!(log["attempts"][0]["answer"].as_str().unwrap().len(), 500);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(large.written() < 32 << 20, "{} bytes were taken", large.written());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_waits_for_a_deleted_endpoint_ends(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let slow = Receiver::start(Behaviour::Trickle(Duration::from_secs(1))).await;
    let (path, _) = endpoint(&service, &slow.url()).await;
    queue_many(&db, &path, 50).await;
    slow.wait_for(4).await;

    let deleted = service.send(service.request(Method::DELETE, &path)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;

    assert_eq!(deleted.status, 200);
    let left: i64 =
        sqlx::query_scalar("select count(*) from webhook_delivery").fetch_one(&db).await.unwrap();
    assert_eq!(left, 0);
    assert_eq!(slow.requests().len(), 4, "nothing more is sent");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn jobs_and_their_cancellation_do_not_wait_for_a_receiver(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let slow = Receiver::start(Behaviour::Trickle(Duration::from_secs(1))).await;
    endpoint(&service, &slow.url()).await;
    let id = start_training(&service, "rex").await;

    let began = Instant::now();
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    slow.wait_for(1).await;
    let canceled = service.post(&format!("/v1/trainings/{id}/cancel"), json!({})).await;
    assert!(db::job::stop(&db, leased.job_id, leased.fence).await.unwrap());
    let ended = service.get(&format!("/v1/trainings/{id}")).await;

    assert_eq!((canceled.status, &ended.body["status"]), (202, &json!("canceled")));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}
