//! Errors: every refusal is a problem, from whichever layer.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use vstar::db::is_unavailable;
use vstar::storage::Storage;

use crate::harness::{Answer, Service, png};

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_refusal_is_a_problem(db: PgPool) {
    let service = Service::start(db).await;
    let send = |method: Method, path: &str| service.request(method, path);

    let no_path = service.get("/v1/nothing").await;
    let no_method = service.send(send(Method::DELETE, "/v1/concepts")).await;
    let no_json = service.send(send(Method::POST, "/v1/concepts").body("{}")).await;
    let broken = send(Method::POST, "/v1/concepts")
        .header("content-type", "application/json")
        .body("{\"handle\":");
    let broken = service.send(broken).await;
    let huge = service.post("/v1/samples", json!({ "prompt": "x".repeat(2 * 1024 * 1024) })).await;

    assert_eq!(no_path.problem(), (404, "no_such_path", vec![]));
    assert_eq!(no_method.problem(), (405, "method_not_allowed", vec![]));
    assert_eq!(no_json.problem(), (415, "unsupported_media_type", vec![]));
    assert_eq!(broken.problem(), (400, "malformed_body", vec![]));
    assert_eq!(huge.problem(), (413, "body_too_large", vec![]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn ids_that_name_nothing_are_not_found(db: PgPool) {
    let service = Service::start(db).await;

    for path in [
        "/v1/concepts/rex",
        "/v1/concepts/cpt_00000000000000000000000000",
        "/v1/concepts/rex/images",
        "/v1/trainings/trn_00000000000000000000000000",
        "/v1/trainings/trn_00000000000000000000000000/events",
        "/v1/trainings/trn_00000000000000000000000000/metrics",
        "/v1/trainings/7",
        "/v1/trainings/smp_00000000000000000000000000",
        "/v1/deltas/dlt_00000000000000000000000000",
        "/v1/deltas/dlt_00000000000000000000000000/content",
        "/v1/merges/mrg_00000000000000000000000000",
        "/v1/samples/smp_00000000000000000000000000",
        "/v1/images/img_00000000000000000000000000",
        "/v1/images/img_00000000000000000000000000/content",
    ] {
        assert_eq!(service.get(path).await.problem().0, 404, "{path}");
    }
    let cancel =
        service.post("/v1/trainings/trn_00000000000000000000000000/cancel", json!({})).await;
    assert_eq!(cancel.problem().0, 404);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_request_keeps_the_id_that_its_client_gave_it(db: PgPool) {
    let service = Service::start(db).await;

    let request = service.request(Method::GET, "/v1/nothing").header("x-request-id", "mine-7");
    let answer = service.send(request).await;

    assert_eq!(
        (answer.header("x-request-id"), answer.body["request_id"].as_str()),
        ("mine-7", Some("mine-7"))
    );
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_service_says_whether_it_is_ready(db: PgPool) {
    let service = Service::start(db).await;

    assert_eq!(service.get("/livez").await.status, 200);
    assert_eq!(service.get("/readyz").await.status, 200);
    assert_eq!(service.get("/v1/capabilities").await.body["base_model"]["max_prompt_tokens"], 32);

    service.shutdown().cancel();
    let going = service.get("/readyz").await;
    assert_eq!(going.problem(), (503, "shutting_down", vec![]));
    assert_eq!(going.header("retry-after"), "1");
    assert_eq!(service.get("/livez").await.status, 200);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_service_hands_out_its_own_description(db: PgPool) {
    let service = Service::start(db).await;

    let document = service.get("/openapi.json").await;

    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.text("openapi"), "3.1.0");
    assert!(document.body["paths"]["/v1/trainings"]["post"].is_object());
}

/// What a client is told when a part of the service is down: not that it did wrong, and when to come again.
fn assert_unavailable(answer: &Answer, code: &str) {
    assert_eq!(answer.problem(), (503, code, vec![]));
    assert_eq!(answer.body["retryable"], true);
    let seconds: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&seconds), "{answer:?}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_database_that_is_down_is_unavailable_and_no_bug(db: PgPool) {
    let service = Service::start(db.clone()).await;

    db.close().await;

    for path in ["/v1/concepts", "/v1/trainings", "/v1/images/img_00000000000000000000000000"] {
        assert_unavailable(&service.get(path).await, "database_unavailable");
    }
    let sample = service.post("/v1/samples", json!({ "prompt": "a dog" })).await;
    assert_unavailable(&sample, "database_unavailable");
    assert_unavailable(&service.get("/readyz").await, "database_unavailable");
    assert_eq!(service.get("/livez").await.status, 200);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_server_that_ends_a_connection_is_unavailable_and_a_wrong_statement_is_not(db: PgPool) {
    let ended = sqlx::query("select pg_terminate_backend(pg_backend_pid())").execute(&db).await;
    let wrong = sqlx::query("select nothing").execute(&db).await;

    assert!(is_unavailable(&ended.unwrap_err()));
    assert!(!is_unavailable(&wrong.unwrap_err()));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_object_store_that_is_down_is_unavailable_and_no_bug(db: PgPool) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("objects");
    let storage = Storage::open(place.to_str().unwrap()).unwrap();
    let service = Service::with_storage(db, storage).await;
    let image = service.upload_image(png(64, 48, 1)).await;
    assert_eq!(image.status, 201, "{image:?}");

    // A file where the folder was: nothing can be read or written there any more.
    std::fs::remove_dir_all(&place).unwrap();
    std::fs::write(&place, "").unwrap();

    let before = service.contents().await;
    assert_unavailable(&service.upload_image(png(64, 48, 2)).await, "storage_unavailable");
    let content = service.get(&image.text("url")).await;
    assert_unavailable(&content, "storage_unavailable");
    assert_unavailable(&service.get("/readyz").await, "storage_unavailable");
    assert_eq!(service.contents().await, before);
}
