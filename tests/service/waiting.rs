//! Waiting for a job with a request: long polls and `Prefer: wait`.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{Answer, Service, lease};

const MINUTE: Duration = Duration::from_secs(60);

async fn sample(service: &Service) -> String {
    let started = service.post("/v1/samples", json!({ "prompt": "a dog" })).await;
    assert_eq!((started.status, started.header("retry-after")), (202, "1"), "{started:?}");
    started.header("location").to_owned()
}

async fn timed(waiting: impl Future<Output = Answer>) -> (Answer, Duration) {
    let began = Instant::now();
    let answer = waiting.await;
    assert_eq!(answer.status, 200, "{answer:?}");
    (answer, began.elapsed())
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_long_poll_ends_with_the_next_change(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let path = sample(&service).await;
    let now = service.get(&path).await;
    assert_eq!(now.header("retry-after"), "1");
    let (known, before) = (now.body["revision"].as_i64().unwrap(), Duration::from_millis(300));

    let (queued, waited) = timed(service.get(&format!("{path}?wait=1"))).await;
    assert!(waited >= Duration::from_secs(1) && queued.text("status") == "queued", "{waited:?}");
    let after = format!("{path}?wait=30&after_revision={}", known - 1);
    let (_, waited) = timed(service.get(&after)).await;
    assert!(waited < Duration::from_secs(1), "the change has happened already: {waited:?}");

    let change = async {
        tokio::time::sleep(before).await;
        lease(&db, "gpu-0", MINUTE).await.unwrap();
    };
    let waiting = format!("{path}?wait=30&after_revision={known}");
    let ((running, waited), ()) = tokio::join!(timed(service.get(&waiting)), change);
    assert_eq!(running.text("status"), "running");
    assert!(waited >= before && waited < Duration::from_secs(5), "{waited:?}");

    for (query, name) in
        [("wait=56", "wait"), ("wait=-1", "wait"), ("wait=1&after_revision=-1", "after_revision")]
    {
        let refused = service.get(&format!("{path}?{query}")).await;
        assert_eq!((refused.problem().0, refused.problem().2), (422, vec![name]), "{query}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn all_who_wait_are_answered_when_the_service_ends(db: PgPool) {
    let service = Service::start(db).await;
    let path = sample(&service).await;
    let (poll, events) = (format!("{path}?wait=55"), format!("{path}/events"));
    let preferring = || {
        let request = service.request(Method::POST, "/v1/samples").header("prefer", "wait=55");
        service.send(request.json(&json!({ "prompt": "a cat" })))
    };

    let end = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        service.shutdown().cancel();
        Instant::now()
    };
    let (ended, polls, waits, streams) = tokio::join!(
        end,
        futures::future::join_all((0..20).map(|_| service.get(&poll))),
        futures::future::join_all((0..10).map(|_| preferring())),
        futures::future::join_all((0..50).map(|_| service.get(&events))),
    );

    assert!(ended.elapsed() < Duration::from_secs(2), "{:?}", ended.elapsed());
    assert!(polls.iter().all(|answer| answer.status == 200 && answer.text("status") == "queued"));
    assert!(waits.iter().all(|answer| answer.status == 202), "{waits:?}");
    let whole =
        |answer: &Answer| String::from_utf8_lossy(&answer.bytes).matches("id: 1\n").count() == 1;
    assert!(streams.iter().all(|answer| answer.status == 200 && whole(answer)), "{:?}", streams[0]);
}
