//! Objects that are gone, damaged or out of reach: what clients are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::memory::InMemory;
use serde_json::json;
use sqlx::PgPool;
use vstar::domain::id::{ConceptId, JobId};
use vstar::storage::{Storage, StorageKey};

use crate::faulty_store::FaultyStore;
use crate::harness::{Answer, DIGEST, Service, any_task, png};
use crate::image_sets::uploaded;

/// Another byte in the middle of an object.
async fn damage(service: &Service, key: &StorageKey) {
    let mut bytes = service.storage.read(key).await.unwrap().to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    service.storage.replace(key, bytes).await.unwrap();
}

fn assert_lost(answer: &Answer, code: &str, id: &str) {
    assert_eq!(answer.problem(), (500, code, vec![]));
    assert_eq!(answer.body["retryable"], false);
    assert!(answer.text("detail").contains(id), "{answer:?}");
    assert!(answer.text("detail").contains("restore"), "{answer:?}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_damaged_or_missing_image_is_not_served(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let image = service.upload_image(png(64, 48, 1)).await;
    let key: String =
        sqlx::query_scalar("select storage_key from image").fetch_one(&db).await.unwrap();
    let key = StorageKey::from(key);
    assert_eq!(service.get(&image.text("url")).await.status, 200);

    damage(&service, &key).await;
    assert_lost(&service.get(&image.text("url")).await, "object_damaged", &image.text("id"));
    service.storage.replace(&key, "short").await.unwrap();
    assert_lost(&service.get(&image.text("url")).await, "object_damaged", &image.text("id"));
    service.storage.delete(&key).await.unwrap();
    assert_lost(&service.get(&image.text("url")).await, "object_missing", &image.text("id"));
    // The row itself is still told.
    assert_eq!(service.get(&format!("/v1/images/{}", image.text("id"))).await.status, 200);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_damaged_or_missing_delta_is_not_served_in_any_format(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let concept_id: ConceptId = service.concept_with_photos("rex", 4).await.parse().unwrap();
    let job_id = JobId::generate();
    vstar::db::job::enqueue(&db, vstar::db::job::NewJob::new(job_id, &any_task(), 1, 1.0))
        .await
        .unwrap();
    let delta_id = service.record_delta(job_id, concept_id, DIGEST).await.to_string();
    let key = StorageKey::stored(&format!("jobs/{job_id}/delta"));

    for format in ["native", "dense"] {
        let path = format!("/v1/deltas/{delta_id}/content?format={format}");
        service.storage.replace(&key, "bad").await.unwrap(); // the size that its row says
        assert_lost(&service.get(&path).await, "object_damaged", &delta_id);
        service.storage.delete(&key).await.unwrap();
        assert_lost(&service.get(&path).await, "object_missing", &delta_id);
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_damaged_image_of_a_set_is_not_served(db: PgPool) {
    let service = Service::start(db).await;
    let set = uploaded(&service, &["a dog", "two dogs"]).await;
    let key = StorageKey::image_set(&set.text("digest"));
    let content = |index: u8| format!("/v1/image-sets/{}/images/{index}/content", set.text("id"));
    let bytes = service.storage.read(&key).await.unwrap();
    let second = service.get(&content(1)).await;
    let place = bytes.windows(second.bytes.len()).position(|bytes| bytes == second.bytes).unwrap();
    let mut damaged = bytes.to_vec();
    damaged[place + 40] ^= 1;

    service.storage.replace(&key, damaged).await.unwrap();

    assert_eq!(service.get(&content(0)).await.status, 200);
    assert_lost(&service.get(&content(1)).await, "object_damaged", &set.text("id"));
    service.storage.replace(&key, bytes.slice(..place + 40)).await.unwrap();
    assert_lost(&service.get(&content(1)).await, "object_damaged", &set.text("id"));
}

/// A service whose object store can be told to stall, and is given up after this time.
async fn impatient(db: PgPool) -> (Service, Arc<FaultyStore>) {
    let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new())));
    let storage = Storage::new(store.clone()).with_limit(Duration::from_millis(300));
    (Service::with_storage(db, storage).await, store)
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_upload_to_a_store_that_is_silent_ends_and_leaves_nothing_half(db: PgPool) {
    let (service, store) = impatient(db).await;
    service.concept("rex", Some("<rex>"), "dog").await;
    let before = service.contents().await;

    for fails in [false, true] {
        match fails {
            false => store.stall("concepts/"),
            true => store.fail("concepts/"),
        }
        let begin = Instant::now();
        let files = vec![("a.png", png(64, 48, 1)), ("b.png", png(64, 48, 2))];
        let answer = service.upload("/v1/concepts/rex/images", files).await;
        assert_eq!(answer.problem(), (503, "storage_unavailable", vec![]));
        assert_eq!((answer.header("retry-after"), &answer.body["retryable"]), ("5", &json!(true)));
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        assert_eq!(service.contents().await, before);
        let objects: Vec<_> = service.storage.list("concepts").try_collect().await.unwrap();
        assert!(objects.is_empty(), "{objects:?}");
        store.heal();
    }

    let files = vec![("a.png", png(64, 48, 1)), ("b.png", png(64, 48, 2))];
    let answer = service.upload("/v1/concepts/rex/images", files).await;
    assert_eq!(answer.body["accepted"], 2, "{answer:?}");
}
