//! No way leads to an address that is not public.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use vstar::domain::webhook::url::Receivers;

use super::receiver::{Behaviour, Receiver};
use super::{SenderGuard, delivery, endpoint, start};
use crate::harness::Service;

/// Ways to write this machine, with the port of a listener on it, and other private places.
fn private_urls(port: u16) -> Vec<String> {
    let mut urls: Vec<String> = [
        "127.0.0.1",
        "[::1]",
        "0.0.0.0",
        "2130706433",
        "0x7f.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "127.0.0.1.",
        "localhost",
        "localhost.",
        "0177.0.0.1",
    ]
    .iter()
    .flat_map(|host| [format!("https://{host}:{port}/"), format!("http://{host}:{port}/")])
    .collect();
    urls.extend(
        [
            "https://127.0.0.1:8443/",
            "https://169.254.169.254/latest/meta-data",
            "https://[fd00:ec2::254]/",
        ]
        .map(str::to_owned),
    );
    urls
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn private_receivers_are_refused_at_registration(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let _sender = SenderGuard::start(&db, Receivers::Public);
    let listener = Receiver::start(Behaviour::Status(200)).await;
    let good = json!({ "url": "https://hooks.example/" });
    let path = service.post("/v1/webhook-endpoints", good).await.header("location").to_owned();

    for url in private_urls(listener.port()) {
        let created = service.post("/v1/webhook-endpoints", json!({ "url": url })).await;
        let changed = service.request(Method::PATCH, &path).json(&json!({ "url": url }));
        let changed = service.send(changed).await;

        assert_eq!(created.problem(), (422, "webhook_url_refused", vec!["/url"]), "{url}");
        assert_eq!(changed.problem(), (422, "webhook_url_refused", vec!["/url"]), "{url}");
    }
    assert_eq!(listener.connections(), 0);
}

/// As if the URL had been registered when it was allowed, or its name had meant something else then.
#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn they_are_refused_again_at_each_delivery(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let listener = Receiver::start(Behaviour::Status(200)).await;
    let (path, _) = endpoint(&service, "https://hooks.example/").await;
    let sender = SenderGuard::start(&db, Receivers::Public);

    for url in private_urls(listener.port()) {
        let moved =
            sqlx::query("update webhook_endpoint set url = $1, failing_since = null").bind(&url);
        moved.execute(&db).await.unwrap();
        let test = service.post(&format!("{path}/test"), json!({})).await;
        let is_tried = |log: &serde_json::Value| {
            log["id"] == test.body["id"] && log["attempts"][0]["error"].is_string()
        };

        let log = delivery(&service, &path, is_tried).await;

        let error = log["attempts"][0]["error"].as_str().unwrap();
        assert!(error.contains("public") || error.contains("not sent"), "{url}: {error}");
        assert_eq!(log["attempts"][0]["status_code"], json!(null), "{url}");
    }
    drop(sender);
    assert_eq!(listener.connections(), 0);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn redirects_are_recorded_and_not_followed(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let target = Receiver::start(Behaviour::Status(200)).await;
    let receiver = Receiver::start(Behaviour::RedirectTo(target.url())).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;

    service.post(&format!("{path}/test"), json!({})).await;
    let log = delivery(&service, &path, |log| log["attempts"][0]["error"].is_string()).await;

    assert_eq!(log["attempts"][0]["status_code"], 307);
    let error = log["attempts"][0]["error"].as_str().unwrap();
    assert!(error.contains(&target.url()) && error.contains("not followed"), "{error}");
    assert_eq!(target.connections(), 0);
    assert_eq!(log["status"], "pending", "it is tried again");
}
