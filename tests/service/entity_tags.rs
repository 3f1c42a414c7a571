//! `ETag`, `If-None-Match` and `If-Match`.

use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;

use crate::harness::{Answer, Service};

async fn training(service: &Service) -> String {
    service.concept_with_photos("rex", 4).await;
    let started = service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await;
    assert_eq!(started.status, 202, "{started:?}");
    format!("/v1/trainings/{}", started.text("id"))
}

async fn get_if_new(service: &Service, path: &str, known: &str) -> Answer {
    service.send(service.request(Method::GET, path).header("if-none-match", known)).await
}

async fn cancel_if(service: &Service, path: &str, known: &str) -> Answer {
    let request = service.request(Method::POST, &format!("{path}/cancel"));
    service.send(request.header("if-match", known)).await
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_client_that_has_the_answer_gets_304(db: PgPool) {
    let service = Service::start(db).await;
    let path = training(&service).await;

    for path in [path.as_str(), "/v1/trainings", "/v1/concepts/rex", "/v1/capabilities"] {
        let first = service.get(path).await;
        let tag = first.header("etag").to_owned();
        assert!(!tag.is_empty(), "{path}: {first:?}");
        assert_eq!(first.header("cache-control"), "private, no-cache");

        for known in [tag.as_str(), "*", &format!("\"other\", {tag}")] {
            let again = get_if_new(&service, path, known).await;
            assert_eq!((again.status, again.bytes.len()), (304, 0), "{path} {known}");
            assert_eq!(again.header("etag"), tag);
        }
        assert_eq!(get_if_new(&service, path, "\"other\"").await.status, 200);
        let head = service.send(service.request(Method::HEAD, path)).await;
        assert_eq!((head.status, head.bytes.len()), (200, 0), "{path}");
        assert_eq!(head.header("etag"), tag);
    }

    let tag = service.get(&path).await.header("etag").to_owned();
    service.post(&format!("{path}/cancel"), json!({})).await;
    let changed = get_if_new(&service, &path, &tag).await;
    assert_eq!(changed.status, 200);
    assert_eq!(changed.header("etag"), format!("\"{}\"", changed.body["revision"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_change_of_another_state_is_refused(db: PgPool) {
    let service = Service::start(db).await;
    let path = training(&service).await;
    let tag = service.get(&path).await.header("etag").to_owned();

    for stale in ["\"0\"", "\"999\"", "\"x\"", &format!("W/{tag}"), "\"0\", \"7\""] {
        let refused = cancel_if(&service, &path, stale).await;
        assert_eq!(refused.problem(), (412, "precondition_failed", vec![]), "{stale}");
    }
    for junk in ["x", "\"1", "1", "*, \"1\""] {
        let refused = cancel_if(&service, &path, junk).await;
        assert_eq!(refused.problem(), (400, "malformed_header", vec![]), "{junk}");
    }
    assert_eq!(service.get(&path).await.text("status"), "queued");

    let last = cancel_if(&service, &path, &format!("\"0\", {tag}")).await;
    assert_eq!((last.status, last.text("status").as_str()), (200, "canceled"));
    assert_eq!(cancel_if(&service, &path, "*").await.status, 200);
    let gone = cancel_if(&service, &format!("/v1/trainings/trn_{}", "0".repeat(26)), "\"1\"").await;
    assert_eq!(gone.problem().0, 404);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn of_many_changes_of_one_state_the_first_wins(db: PgPool) {
    let service = Service::start(db).await;
    let path = training(&service).await;
    let tag = service.get(&path).await.header("etag").to_owned();

    let all = futures::future::join_all((0..16).map(|_| cancel_if(&service, &path, &tag))).await;

    let won = all.iter().filter(|answer| answer.status == 200).count();
    let lost = all.iter().filter(|answer| answer.status == 412).count();
    assert_eq!((won, lost), (1, 15), "{all:?}");
}
