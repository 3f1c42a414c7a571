//! Webhooks: endpoints, what is sent to them, what receivers can do wrong, and who must not be reached.

mod endpoints;
mod guard;
mod libraries;
mod receiver;
mod retries;
mod unfair;

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use vstar::db;
use vstar::domain::webhook::url::Receivers;
use vstar::webhook_sender::{Sender, SenderOptions};

use crate::harness::{Service, lease};
use receiver::{Behaviour, Receiver};

const MINUTE: Duration = Duration::from_secs(60);

/// A service that may send to this machine, and a sender for it that ends with the test.
async fn start(db: &PgPool) -> (Service, SenderGuard) {
    let service = Service::start(db.clone()).await.allowing_private_webhooks().await;
    (service, SenderGuard::start(db, Receivers::Any))
}

struct SenderGuard(CancellationToken);

impl SenderGuard {
    fn start(db: &PgPool, receivers: Receivers) -> Self {
        let shutdown = CancellationToken::new();
        let public_url = "https://images.example".to_owned();
        let sender = Sender::new(db.clone(), SenderOptions { receivers, public_url }).unwrap();
        tokio::spawn(sender.run(shutdown.clone().into()));
        Self(shutdown)
    }
}

impl Drop for SenderGuard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Creates an endpoint for a receiver; returns its path and its secret.
async fn endpoint(service: &Service, url: &str) -> (String, String) {
    let answer = service.post("/v1/webhook-endpoints", json!({ "url": url })).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    (format!("/v1/webhook-endpoints/{}", answer.text("id")), answer.text("secret"))
}

/// Starts a training.
async fn start_training(service: &Service, handle: &str) -> String {
    service.concept_with_photos(handle, 4).await;
    service.post("/v1/trainings", json!({ "concepts": [handle] })).await.text("id")
}

/// Waits for a delivery of an endpoint that is as wanted.
async fn delivery(service: &Service, endpoint: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..200 {
        last = service.get(&format!("{endpoint}/deliveries?limit=100")).await.body;
        if let Some(found) = last["data"].as_array().unwrap().iter().find(|found| wanted(found)) {
            return found.clone();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no such delivery: {last:#}");
}

/// Waits until something is as wanted.
async fn until(service: &Service, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..200 {
        let found = service.get(path).await.body;
        if wanted(&found) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{path} does not become as wanted");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_is_told_from_start_to_end(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::Status(204)).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;
    let id = start_training(&service, "rex").await;

    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    assert!(db::job::succeed(&db, leased.job_id, leased.fence).await.unwrap());
    receiver.wait_for(2).await;

    let mut told: Vec<Value> = receiver.requests().iter().map(|request| request.json()).collect();
    told.sort_by_key(|body| body["data"]["revision"].as_i64());
    let training = service.get(&format!("/v1/trainings/{id}")).await.body;
    let data = |status: &str, revision: &Value| {
        json!({
            "id": id, "object": "training", "status": status, "revision": revision, "external_id": null,
            "project_id": "prj_00000000000000000000000000",
            "url": format!("https://images.example/v1/trainings/{id}"),
        })
    };
    assert_eq!(told[0]["type"], "training.started");
    assert_eq!(told[0]["data"], data("running", &told[0]["data"]["revision"]));
    assert_eq!(told[1]["type"], "training.succeeded");
    assert_eq!(told[1]["data"], data("succeeded", &training["revision"]));
    for request in receiver.requests() {
        assert!(request.body.len() < 4096);
        assert_eq!(request.header("content-type"), "application/json");
        let log = delivery(&service, &path, |log| log["id"] == request.header("webhook-id")).await;
        assert_eq!(log["status"], "succeeded");
        assert_eq!(log["attempts"][0]["status_code"], 204);
        assert_eq!(log["attempts"][0]["error"], json!(null));
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_way_a_job_ends_is_told_once_and_only_what_is_asked_for(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let body =
        json!({ "url": receiver.url(), "event_types": ["training.canceled", "training.failed"] });
    let path = service.post("/v1/webhook-endpoints", body).await.header("location").to_owned();

    let canceled = start_training(&service, "rex").await;
    service.post(&format!("/v1/trainings/{canceled}/cancel"), json!({})).await;
    service.post(&format!("/v1/trainings/{canceled}/cancel"), json!({})).await;
    start_training(&service, "max").await;
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    let failure = serde_json::from_value(json!({
        "title": "t", "code": "internal_error", "detail": "d", "retryable": false,
    }));
    db::job::fail(&db, leased.job_id, leased.fence, &failure.unwrap()).await.unwrap();
    start_training(&service, "tom").await;
    let leased = lease(&db, "gpu-0", MINUTE).await.unwrap();
    db::job::succeed(&db, leased.job_id, leased.fence).await.unwrap();

    receiver.wait_for(2).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut types: Vec<String> = receiver.requests().iter().map(receiver::Request::event).collect();
    types.sort();
    assert_eq!(types, ["training.canceled", "training.failed"]);
    let log = service.get(&format!("{path}/deliveries")).await.body;
    assert_eq!(log["data"].as_array().unwrap().len(), 2, "nothing else is queued: {log}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_is_undone_is_not_told(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;
    start_training(&service, "rex").await;

    let mut tx = db.begin().await.unwrap();
    let canceled = sqlx::query("update job set state = 'canceled', finished_at = now()");
    canceled.execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();

    let log = service.get(&format!("{path}/deliveries")).await.body;
    assert_eq!(log["data"], json!([]), "the outbox is written in the transaction of the change");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn promotions_and_deletions_of_concepts_are_told(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::Status(200)).await;
    let body =
        json!({ "url": receiver.url(), "event_types": ["concept.promoted", "concept.deleted"] });
    assert_eq!(service.post("/v1/webhook-endpoints", body).await.status, 201);

    let (trained, _) = service.trained_concept("rex", crate::harness::DIGEST).await;
    let unused = service.concept("max", None, "cat").await;
    let deleted = sqlx::query("delete from concept where handle = 'max'").execute(&db).await;
    assert_eq!(deleted.unwrap().rows_affected(), 1);

    receiver.wait_for(2).await;
    let mut told: Vec<(String, Value)> = receiver
        .requests()
        .iter()
        .map(|request| (request.event(), request.json()["data"]["id"].clone()))
        .collect();
    told.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("concept.deleted", unused), ("concept.promoted", trained)];
    assert_eq!(told, expected.map(|(event, id)| (event.to_owned(), json!(id))));
}
