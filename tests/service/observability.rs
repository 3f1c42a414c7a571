//! What an operator sees: ids of requests, and metrics.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{Answer, Service};

/// Longer than figures of the queue are kept.
const REFRESHED: Duration = Duration::from_millis(5200);

async fn metrics(service: &Service) -> String {
    let answer = service.get("/metrics").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    String::from_utf8(answer.bytes).unwrap()
}

/// The value of a sample, by its name and labels.
fn value(metrics: &str, sample: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with(&format!("{sample} ")))?;
    Some(line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

fn depth(metrics: &str, kind: &str) -> Option<f64> {
    value(metrics, &format!("vstar_queue_depth{{kind=\"{kind}\"}}"))
}

async fn with_id(service: &Service, id: &str) -> Answer {
    service.send(service.request(Method::GET, "/v1/concepts").header("x-request-id", id)).await
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_plain_request_id_comes_back_and_another_is_replaced(db: PgPool) {
    let service = Service::start(db).await;

    assert_eq!(with_id(&service, "order-17_a.b").await.header("x-request-id"), "order-17_a.b");
    for odd in ["two words", "quote\"", "a=b", "ünïcode", &"x".repeat(129)] {
        let answer = with_id(&service, odd).await;
        let id = answer.header("x-request-id");
        assert!(!id.is_empty() && !odd.contains(id), "{odd} became {id}");
    }
    let missing = service.get("/nowhere").await;
    assert_eq!(missing.body["request_id"], missing.header("x-request-id"));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_keeps_the_request_and_the_trace_that_asked_for_it(db: PgPool) {
    let service = Service::start(db.clone()).await;
    service.concept_with_photos("rex", 4).await;
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    let ask = |traceparent: &str| {
        let request = service.request(Method::POST, "/v1/trainings");
        let request = request.header("x-request-id", "asked-1").header("traceparent", traceparent);
        service.send(request.json(&json!({ "concepts": ["rex"] })))
    };
    assert_eq!(ask(traceparent).await.status, 202);
    assert_eq!(ask("junk").await.status, 202);

    let sql = "select request_id, traceparent from job order by job_id";
    let kept: Vec<(Option<String>, Option<String>)> =
        sqlx::query_as(sql).fetch_all(&db).await.unwrap();
    let id = Some("asked-1".to_owned());
    assert_eq!(kept, [(id.clone(), Some(traceparent.to_owned())), (id, None)]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_kind_of_job_has_a_depth_also_when_none_waits(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await.text("id"));
    }

    let before = metrics(&service).await;
    for id in ids {
        service.post(&format!("/v1/trainings/{id}/cancel"), json!({})).await;
    }
    tokio::time::sleep(REFRESHED).await;
    let after = metrics(&service).await;

    assert_eq!(depth(&before, "training"), Some(3.0));
    let age = value(&before, "vstar_queue_oldest_age_seconds{kind=\"training\"}").unwrap();
    assert!((0.0..60.0).contains(&age), "{age}");
    for kind in ["training", "sample", "merge", "evaluation", "compression"] {
        assert_eq!(depth(&after, kind), Some(0.0), "{kind}");
        let age = format!("vstar_queue_oldest_age_seconds{{kind=\"{kind}\"}}");
        assert_eq!(value(&after, &age), Some(0.0), "{kind}");
    }
    assert_eq!(value(&after, "vstar_webhooks_pending"), Some(0.0));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_queue_that_cannot_be_read_is_missing_and_not_empty(db: PgPool) {
    let service = Service::start(db).await;
    assert_eq!(value(&metrics(&service).await, "vstar_database_up"), Some(1.0));

    service.db.close().await;
    tokio::time::sleep(REFRESHED).await;
    let away = metrics(&service).await;

    assert_eq!(value(&away, "vstar_database_up"), Some(0.0));
    assert_eq!(depth(&away, "training"), None);
    assert!(!away.contains("vstar_webhooks_pending"), "{away}");
    assert!(away.contains("vstar_lease_expiries_total"), "what the process counts is still there");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn unknown_paths_and_methods_make_no_series(db: PgPool) {
    let service = Service::start(db).await;
    let series = |metrics: &str| {
        let of_http = metrics
            .lines()
            .filter(|line| line.starts_with("vstar_http_request_duration_seconds_count"));
        of_http.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>()
    };

    for number in 0..200 {
        service.get(&format!("/v1/{number}/x{number}")).await;
        service.get(&format!("/v1/concepts/c{number}")).await;
        let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
        service.send(service.request(method, "/v1/concepts")).await;
    }

    let found = series(&metrics(&service).await);
    let of = |method: &str, route: &str| {
        format!(
            "vstar_http_request_duration_seconds_count{{method=\"{method}\",route=\"{route}\"}}"
        )
    };
    assert!(found.contains(&of("GET", "none")), "{found:?}");
    assert!(found.contains(&of("GET", "/v1/concepts/{concept}")), "{found:?}");
    assert!(found.contains(&of("other", "/v1/concepts")), "{found:?}");
    // Other tests of this process have their routes among them.
    for line in found {
        assert!(
            !line.contains("/x1") && !line.contains("c199") && !line.contains("M199"),
            "{line}"
        );
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_process_with_a_deep_queue_is_not_ready(db: PgPool) {
    let service = Service::start(db).await.ready_below(1).await;
    service.concept_with_photos("rex", 4).await;
    let start = || service.post("/v1/trainings", json!({ "concepts": ["rex"] }));
    start().await;
    assert_eq!(service.get("/readyz").await.status, 200);

    start().await;
    tokio::time::sleep(REFRESHED).await;
    let deep = service.get("/readyz").await;

    assert_eq!(deep.problem(), (503, "queue_full", vec![]));
    assert_eq!(deep.header("retry-after"), "5");
}
