//! Presigned uploads on a store without URLs of its own: the service takes the file itself.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use vstar::gc::{GcOptions, collect};

use crate::harness::{Answer, Service, png};

fn sha256(file: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(file))
}

fn announcement(file: &[u8]) -> Value {
    json!({ "filename": "../rex.png", "size_bytes": file.len(), "content_type": "image/png", "sha256": sha256(file) })
}

async fn announce(service: &Service, body: Value) -> (String, String) {
    let announced = service.post("/v1/uploads", body).await;
    assert_eq!(announced.status, 201, "{announced:?}");
    assert_eq!(announced.body["status"], "open");
    let path = format!("/v1/uploads/{}", announced.text("id"));
    assert_eq!(announced.header("location"), path);
    (path, announced.text("url"))
}

async fn put(service: &Service, url: &str, file: Vec<u8>) -> Answer {
    service.send(service.request(Method::PUT, url).body(file)).await
}

async fn complete(service: &Service, path: &str) -> Answer {
    service.send(service.request(Method::POST, &format!("{path}/complete"))).await
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_file_becomes_a_photo_or_a_start_image(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", Some("<rex>"), "dog").await;
    let (one, other) = (png(64, 64, 1), png(64, 64, 200));
    let mut body = announcement(&one);
    body["concept"] = json!("rex");
    body["caption"] = json!("asleep");

    let (path, url) = announce(&service, body).await;
    let early = complete(&service, &path).await;
    let sent = put(&service, &url, one).await;
    let done = complete(&service, &path).await;
    let again = complete(&service, &path).await;

    assert_eq!((early.problem().0, early.problem().1), (409, "upload_incomplete"));
    assert_eq!(sent.status, 204, "{sent:?}");
    assert_eq!((done.status, &done.body["status"]), (200, &json!("completed")), "{done:?}");
    assert_eq!(done.body["image"]["photo"]["caption"], "asleep");
    assert_eq!(done.body["image"]["file_name"], "rex.png");
    assert_eq!(again.body["image"]["id"], done.body["image"]["id"]);
    assert_eq!(service.get("/v1/concepts/rex").await.body["image_count"], 1);

    let (path, url) = announce(&service, announcement(&other)).await;
    put(&service, &url, other.clone()).await;
    let done = complete(&service, &path).await;
    let content = service.get(done.body["image"]["url"].as_str().unwrap()).await;
    assert_eq!(
        image::load_from_memory(&content.bytes).unwrap(),
        image::load_from_memory(&other).unwrap()
    );
    let seen = service.get(&path).await;
    assert_eq!((&seen.body["image"], seen.body.get("url")), (&done.body["image"], None));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_is_sent_after_completion_has_no_effect(db: PgPool) {
    let service = Service::start(db).await;
    service.concept("rex", None, "dog").await;
    let (good, other) = (png(64, 64, 1), png(64, 64, 2));
    let mut body = announcement(&good);
    body["concept"] = json!("rex");
    let (path, url) = announce(&service, body).await;
    put(&service, &url, good.clone()).await;
    let done = complete(&service, &path).await;
    assert_eq!(done.status, 200, "{done:?}");
    let content = service.get(done.body["image"]["url"].as_str().unwrap()).await;

    let late = put(&service, &url, other.clone()).await;
    // As a URL of an object store would go on to write.
    let key = format!("incoming/{}", path.rsplit('/').next().unwrap());
    let key = vstar::storage::StorageKey::stored(&key);
    service.storage.replace(&key, other).await.unwrap();

    assert_eq!((late.problem().0, late.problem().1), (409, "upload_closed"));
    let after = service.get(done.body["image"]["url"].as_str().unwrap()).await;
    assert_eq!(after.bytes, content.bytes);
    assert_eq!(complete(&service, &path).await.body["image"], done.body["image"]);
    let options = GcOptions { dry_run: false, grace: Duration::ZERO };
    tokio::time::sleep(Duration::from_millis(1100)).await;
    collect(&service.db, &service.storage, &options).await.unwrap();
    assert!(!service.storage.exists(&key).await.unwrap(), "gc takes it");
    assert_eq!(service.get(done.body["image"]["url"].as_str().unwrap()).await.bytes, content.bytes);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn other_files_than_the_announced_one_never_become_the_image(db: PgPool) {
    let service = Service::start(db).await;
    let (good, equal) = (png(64, 64, 1), png(64, 64, 2));
    for round in 0..20_u8 {
        let (path, url) = announce(&service, announcement(&good)).await;
        put(&service, &url, good.clone()).await;
        let key = format!("incoming/{}", path.rsplit('/').next().unwrap());
        let key = vstar::storage::StorageKey::stored(&key);
        let mut changed = equal.clone();
        changed.resize(good.len() + usize::from(round % 3), 0);

        let (storage, writes) = (service.storage.clone(), 30);
        let writer = tokio::spawn(async move {
            for _ in 0..writes {
                storage.replace(&key, changed.clone()).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let done = complete(&service, &path).await;
        writer.await.unwrap();

        match done.status {
            200 => {
                let url = done.body["image"]["url"].as_str().unwrap().to_owned();
                let content = service.get(&url).await;
                assert_eq!(
                    image::load_from_memory(&content.bytes).unwrap(),
                    image::load_from_memory(&good).unwrap()
                );
            }
            422 => assert_eq!(done.problem().1, "digest_mismatch", "{done:?}"),
            _ => panic!("{done:?}"),
        }
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_is_not_as_announced_is_refused(db: PgPool) {
    let service = Service::start(db).await;
    let file = png(64, 64, 1);
    for (field, value, pointer) in [
        ("size_bytes", json!(0), "/size_bytes"),
        ("size_bytes", json!(21 << 20), "/size_bytes"),
        ("sha256", json!("abc"), "/sha256"),
        ("content_type", json!("image/heic"), "/content_type"),
        ("filename", json!(""), "/filename"),
        ("caption", json!("a dog"), "/caption"),
        ("color", json!("red"), "/color"),
    ] {
        let mut body = announcement(&file);
        body[field] = value;
        let refused = service.post("/v1/uploads", body).await;
        assert_eq!((refused.problem().0, refused.problem().2), (422, vec![pointer]), "{refused:?}");
    }

    let (path, url) = announce(&service, announcement(&file)).await;
    let shorter = put(&service, &url, file[..60].to_vec()).await;
    let longer = put(&service, &url, [file.clone(), vec![0]].concat()).await;
    let other = put(&service, &url, png(64, 64, 2)).await;
    let nobodys = put(&service, "/uploads/abc", file.clone()).await;

    for refused in [shorter, other] {
        assert!(matches!(refused.problem().1, "digest_mismatch" | "body_too_large"), "{refused:?}");
    }
    assert_eq!(longer.problem().0, 413);
    assert_eq!(nobodys.problem().0, 404);
    assert_eq!(complete(&service, &path).await.problem().1, "upload_incomplete");

    sqlx::query("update upload set expires_at = now() - interval '1 second'")
        .execute(&service.db)
        .await
        .unwrap();
    assert_eq!(put(&service, &url, file).await.problem().1, "upload_closed");
    assert_eq!(complete(&service, &path).await.problem().1, "upload_closed");
    assert_eq!(service.get(&path).await.body["status"], "expired");
}
