//! Endpoints as a resource: created, changed, rotated, deleted, and refused.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use super::{delivery, endpoint, start};
use crate::harness::{Answer, Service};
use crate::webhooks::receiver::{Behaviour, Receiver};

async fn patch(service: &Service, path: &str, body: serde_json::Value) -> Answer {
    service.send(service.request(Method::PATCH, path).json(&body)).await
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_endpoint_shows_its_secret_once(db: PgPool) {
    let service = Service::start(db).await;

    let body = json!({ "url": "https://hooks.example/vstar", "description": "orders" });
    let created = service.post("/v1/webhook-endpoints", body).await;

    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.body["object"], "webhook_endpoint");
    assert_eq!(
        (&created.body["event_types"], &created.body["enabled"]),
        (&json!(null), &json!(true))
    );
    let secret = created.text("secret");
    assert!(secret.starts_with("whsec_"));
    let path = created.header("location");
    let shown = service.get(path).await;
    assert_eq!(shown.body["secret"], json!(null));
    let list = service.get("/v1/webhook-endpoints").await;
    assert_eq!(list.body["data"], json!([shown.body]));
    let rotated = service.post(&format!("{path}/rotate-secret"), json!({})).await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    assert_ne!(rotated.text("secret"), secret);
    assert_eq!(rotated.body["revision"], 2);
    assert!(rotated.body["previous_secret_until"].is_string());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_endpoint_is_changed_field_by_field(db: PgPool) {
    let service = Service::start(db).await;
    let body = json!({ "url": "https://hooks.example/", "description": "a", "event_types": ["training.failed"] });
    let path = service.post("/v1/webhook-endpoints", body).await.header("location").to_owned();

    let other = patch(&service, &path, json!({ "url": "https://hooks.example:8443/b" })).await;
    assert_eq!((other.status, &other.body["description"]), (200, &json!("a")));
    assert_eq!(other.body["event_types"], json!(["training.failed"]));
    let all = patch(&service, &path, json!({ "event_types": null, "description": null })).await;
    assert_eq!((&all.body["event_types"], &all.body["description"]), (&json!(null), &json!(null)));
    let same = patch(&service, &path, json!({})).await;
    assert_eq!(same.body["revision"], all.body["revision"]);

    for (body, code, pointer) in [
        (json!({ "event_types": [] }), "out_of_range", "/event_types"),
        (json!({ "event_types": ["training.exploded"] }), "invalid_value", "/event_types/0"),
        (json!({ "description": "x".repeat(501) }), "out_of_range", "/description"),
        (json!({ "url": "http://hooks.example/" }), "webhook_url_refused", "/url"),
        (json!({ "secret": "whsec_" }), "unknown_field", "/secret"),
    ] {
        let answer = patch(&service, &path, body).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]));
    }
    let body = json!({ "url": "https://hooks.example/", "secret": "whsec_c2hvcnQ=" });
    let short = service.post("/v1/webhook-endpoints", body).await;
    assert_eq!(short.problem(), (422, "invalid_value", vec!["/secret"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_project_has_a_bounded_number_of_endpoints_also_at_the_same_time(db: PgPool) {
    let service = Service::start(db).await;
    let create =
        || service.post("/v1/webhook-endpoints", json!({ "url": "https://hooks.example/" }));

    let answers = futures::future::join_all((0..25).map(|_| create())).await;

    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 20);
    let refused = answers.iter().find(|answer| answer.status != 201).unwrap();
    assert_eq!(refused.problem(), (409, "too_many_webhook_endpoints", vec![""]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_disabled_endpoint_gets_nothing_and_says_so(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let receiver = Receiver::start(Behaviour::Status(500)).await;
    let (path, _) = endpoint(&service, &receiver.url()).await;
    let test = service.post(&format!("{path}/test"), json!({})).await;
    assert_eq!(test.status, 202, "{test:?}");
    delivery(&service, &path, |log| !log["attempts"].as_array().unwrap().is_empty()).await;

    let disabled = patch(&service, &path, json!({ "enabled": false })).await;

    assert_eq!(disabled.body["enabled"], false);
    let log = service.get(test.header("location")).await.body;
    assert_eq!((&log["status"], &log["next_attempt_at"]), (&json!("canceled"), &json!(null)));
    let again = service.post(&format!("{path}/test"), json!({})).await;
    assert_eq!(again.problem(), (409, "webhook_endpoint_disabled", vec![""]));
    let redeliver = format!("{}/redeliver", test.header("location"));
    assert_eq!(service.post(&redeliver, json!({})).await.problem().1, "webhook_endpoint_disabled");
    patch(&service, &path, json!({ "enabled": true })).await;
    let before = receiver.requests().len();
    assert_eq!(service.post(&redeliver, json!({})).await.status, 202);
    receiver.wait_for(before + 1).await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_is_not_there_is_not_found(db: PgPool) {
    let (service, _sender) = start(&db).await;
    let (path, _) = endpoint(&service, "http://127.0.0.1:9/").await;
    assert_eq!(service.post(&format!("{path}/test"), json!({})).await.status, 202);
    let deleted = service.send(service.request(Method::DELETE, &path)).await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    let removed = &deleted.body["removed"];
    assert_eq!(
        (&removed["webhook_endpoints"], &removed["webhook_deliveries"]),
        (&json!(1), &json!(1))
    );

    for (method, path) in [
        (Method::GET, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/test")),
        (Method::POST, format!("{path}/rotate-secret")),
        (Method::GET, format!("{path}/deliveries")),
        (Method::GET, format!("{path}/deliveries/whd_00000000000000000000000000")),
        (Method::POST, format!("{path}/deliveries/whd_00000000000000000000000000/redeliver")),
    ] {
        let answer = service.send(service.request(method, &path)).await;
        assert_eq!(answer.problem(), (404, "not_found", vec![]), "{path}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn of_many_changes_for_one_state_one_wins(db: PgPool) {
    let service = Service::start(db).await;
    let body = json!({ "url": "https://hooks.example/" });
    let created = service.post("/v1/webhook-endpoints", body).await;
    let path = created.header("location");
    let tag = service.get(path).await.header("etag").to_owned();
    let change = |index: usize| {
        let body = json!({ "description": index.to_string() });
        service.send(service.request(Method::PATCH, path).header("if-match", &tag).json(&body))
    };

    let answers = futures::future::join_all((0..16).map(change)).await;
    let stale = service.request(Method::DELETE, path).header("if-match", &tag);
    let stale = service.send(stale).await;

    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!((statuses[0], &statuses[1..]), (200, &[412; 15][..]));
    assert_eq!(stale.problem().1, "precondition_failed");
    assert_eq!(service.get(path).await.body["revision"], 2);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_endpoint_has_labels_like_other_resources(db: PgPool) {
    let service = Service::start(db).await;
    let create = |external_id: &str| {
        let body = json!({ "url": "https://hooks.example/", "external_id": external_id, "metadata": { "team": "a" } });
        service.post("/v1/webhook-endpoints", body)
    };
    let first = create("crm").await;
    let path = first.header("location").to_owned();

    assert_eq!(
        (&first.body["metadata"], &first.body["external_id"]),
        (&json!({ "team": "a" }), &json!("crm"))
    );
    assert_eq!(first.body["revision"], 1);
    assert_eq!(create("crm").await.problem(), (409, "external_id_taken", vec!["/external_id"]));
    create("erp").await;
    let taken = patch(&service, &path, json!({ "external_id": "erp" })).await;
    assert_eq!(taken.problem(), (409, "external_id_taken", vec!["/external_id"]));
    let changed = patch(
        &service,
        &path,
        json!({ "metadata": { "team": null, "tier": "1" }, "external_id": null }),
    )
    .await;
    assert_eq!(
        (&changed.body["metadata"], &changed.body["external_id"]),
        (&json!({ "tier": "1" }), &json!(null))
    );
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_request_that_is_sent_again_makes_nothing_twice(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let create = || {
        let request = service.request(Method::POST, "/v1/webhook-endpoints");
        let request = request.header("idempotency-key", "once");
        service.send(request.json(&json!({ "url": "https://hooks.example/" })))
    };

    let (first, second) = (create().await, create().await);
    let test = || {
        let request = service.request(Method::POST, &format!("{}/test", first.header("location")));
        service.send(request.header("idempotency-key", "test once"))
    };
    let (queued, again) = (test().await, test().await);

    assert_eq!((first.status, second.status), (201, 201));
    assert_eq!(first.header("cache-control"), "no-store");
    assert_eq!((&second.body["id"], &second.body["secret"]), (&first.body["id"], &json!(null)));
    assert_eq!((queued.status, again.status), (202, 202));
    assert_eq!(again.body["id"], queued.body["id"]);
    let kept = "select count(*) from idempotency_key where position('whsec'::bytea in body) > 0";
    let secrets: i64 = sqlx::query_scalar(kept).fetch_one(&db).await.unwrap();
    assert_eq!(secrets, 0);
    let deliveries: i64 =
        sqlx::query_scalar("select count(*) from webhook_delivery").fetch_one(&db).await.unwrap();
    assert_eq!(deliveries, 1);
}
