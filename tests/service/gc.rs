//! What gc deletes, what it leaves, and what it reports.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use reqwest::Method;
use serde_json::json;
use sqlx::PgPool;
use vstar::db;
use vstar::db::job::NewJob;
use vstar::domain::digest::Digest;
use vstar::domain::id::{ConceptId, ImageId, JobId, ProjectId};
use vstar::gc::{GcOptions, GcReport, collect};
use vstar::storage::StorageKey;

use crate::harness::{Service, any_task, lease, png};
use crate::image_sets::{captioned, upload, uploaded};

/// Objects that are as old as this are old enough. gc takes a second more, since some stores date in whole ones.
const OLD_ENOUGH: Duration = Duration::from_millis(1200);

async fn gc(service: &Service, grace: Duration, dry_run: bool) -> GcReport {
    let options = GcOptions { dry_run, grace };
    collect(&service.db, &service.storage, &options).await.unwrap()
}

/// The keys of all objects.
async fn keys(service: &Service) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for folder in StorageKey::FOLDERS.into_iter().chain(["notes"]) {
        let objects: Vec<_> = service.storage.list(folder).try_collect().await.unwrap();
        keys.extend(objects.into_iter().map(|object| object.key.to_string()));
    }
    keys
}

async fn write(service: &Service, key: &StorageKey) {
    service.storage.write(key, "content").await.unwrap();
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn strays_are_collected_and_everything_else_stays(db: PgPool) {
    let service = Service::start(db.clone()).await;
    service.concept_with_photos("rex", 4).await;
    assert_eq!(service.upload_image(png(64, 48, 9)).await.status, 201);
    let (kept_set, deleted_set) =
        (uploaded(&service, &["a dog"]).await, uploaded(&service, &["a cat", "two cats"]).await);
    // A training that waits names a set that is deleted then; nothing names the other deleted set.
    let named_set = uploaded(&service, &["a dog", "two dogs"]).await;
    let training = json!({ "concepts": ["rex"], "regularization": { "source": "set", "set": named_set.text("id") } });
    let training = service.post("/v1/trainings", training).await;
    assert_eq!(training.status, 202, "{training:?}");
    for set in [&deleted_set, &named_set] {
        let path = format!("/v1/image-sets/{}", set.text("id"));
        assert_eq!(service.send(service.request(Method::DELETE, &path)).await.status, 200);
    }
    let digest = |set: &crate::harness::Answer| Digest::from(set.text("digest"));
    let live = JobId::generate();
    db::job::enqueue(&db, NewJob::new(live, &any_task(), 1, 1.0)).await.unwrap();
    let evaluator = "e".repeat(64);
    let stays = [
        StorageKey::delta(live, 1), // of a job that may finish yet
        StorageKey::regularization_statistics("b", "c"),
        StorageKey::text_index(&digest(&kept_set), &evaluator),
        StorageKey::stored("notes/holiday.txt"),
        StorageKey::stored("jobs/not-of-vstar/1/delta"),
    ];
    let gone = JobId::generate();
    let goes = [
        StorageKey::photo(ConceptId::generate(), ImageId::generate()),
        StorageKey::upload(ImageId::generate()),
        StorageKey::delta(gone, 1),
        StorageKey::sample(gone, 2, 3),
        StorageKey::stored(&format!("checkpoints/{gone}/1/50.safetensors")),
        StorageKey::stored("probes/1"),
        StorageKey::text_index(&digest(&deleted_set), &evaluator),
    ];
    for key in stays.iter().chain(&goes) {
        write(&service, key).await;
    }
    let before = keys(&service).await;
    tokio::time::sleep(OLD_ENOUGH).await;
    let young = StorageKey::upload(ImageId::generate());
    write(&service, &young).await;

    let said = gc(&service, Duration::ZERO, true).await;
    assert_eq!((said.stray(), said.deleted()), (goes.len() + 1, 0), "{said}");
    assert_eq!(keys(&service).await.len(), before.len() + 1, "a dry run deletes nothing");
    let done = gc(&service, Duration::ZERO, false).await;

    assert_eq!((done.stray(), done.deleted()), (goes.len() + 1, goes.len() + 1), "{done}");
    let mut expected = before.clone();
    for key in goes.iter().chain([&StorageKey::image_set(&digest(&deleted_set))]) {
        assert!(expected.remove(key.as_str()), "{key}");
    }
    expected.insert(young.to_string());
    assert_eq!(keys(&service).await, expected);
    assert_eq!(done.lost_count, 0, "{done}");
    tokio::time::sleep(OLD_ENOUGH).await;
    assert_eq!(gc(&service, Duration::ZERO, false).await.deleted(), 1, "the young one is old now");

    // Once the training has ended, nothing names the other set any more.
    let path = format!("{}/cancel", training.header("location"));
    service.post(&path, json!({})).await;
    assert_eq!(gc(&service, Duration::ZERO, false).await.deleted(), 1);
    assert!(!keys(&service).await.contains(StorageKey::image_set(&digest(&named_set)).as_str()));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn objects_within_the_grace_period_stay(db: PgPool) {
    let service = Service::start(db).await;
    write(&service, &StorageKey::upload(ImageId::generate())).await;
    tokio::time::sleep(OLD_ENOUGH).await;

    let report = gc(&service, Duration::from_secs(3600), false).await;

    assert_eq!((report.stray(), keys(&service).await.len()), (0, 1), "{report}");
    let uploads = report.folders.iter().find(|folder| folder.name == "uploads").unwrap();
    assert_eq!(uploads.young, 1);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn rows_whose_object_is_gone_are_reported(db: PgPool) {
    let service = Service::start(db).await;
    let (_, delta_id) = service.trained_concept("rex", crate::harness::DIGEST).await; // it has no object
    let images = service.get("/v1/concepts/rex/images").await;
    let id = |index: usize| images.body["data"][index]["id"].as_str().unwrap();
    let keys: BTreeSet<String> = keys(&service).await;
    let key_of =
        |id: &str| StorageKey::stored(keys.iter().find(|key| key.contains(id)).expect("a photo"));
    service.storage.delete(&key_of(id(0))).await.unwrap();
    service.storage.replace(&key_of(id(1)), "shorter").await.unwrap();

    let report = gc(&service, Duration::ZERO, false).await;

    assert_eq!(report.lost_count, 3, "{report}");
    let found: BTreeSet<(&str, &str)> =
        report.lost.iter().map(|lost| (lost.owner.as_str(), &lost.reason[..11])).collect();
    let expected = [
        (format!("image {}", id(0)), "it is not t"),
        (format!("image {}", id(1)), "it has 7 by"),
        (format!("delta {delta_id}"), "it is not t"),
    ];
    assert_eq!(found, expected.iter().map(|(owner, why)| (owner.as_str(), *why)).collect());
    assert!(report.to_string().contains(id(0)), "{report}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_set_that_is_recorded_again_keeps_its_old_object(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let set = uploaded(&service, &["a dog"]).await;
    let digest = set.text("digest");
    let row =
        db::image_set::find_by_digest(&db, ProjectId::DEFAULT, &digest).await.unwrap().unwrap();
    db::image_set::delete(&db, ProjectId::DEFAULT, row.image_set_id).await.unwrap();
    tokio::time::sleep(OLD_ENOUGH).await;

    // The row comes back while gc is at work, in a transaction that has not ended when gc looks for it.
    let mut tx = db.begin().await.unwrap();
    db::image_set::lock_object(&mut *tx, &digest).await.unwrap();
    db::image_set::record(&mut *tx, ProjectId::DEFAULT, &row).await.unwrap();
    let collecting = gc(&service, Duration::ZERO, false);
    let commit = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tx.commit().await.unwrap();
    };
    let (report, ()) = tokio::join!(collecting, commit);

    assert_eq!((report.stray(), report.deleted()), (1, 0), "{report}");
    assert!(service.storage.exists(&StorageKey::image_set(&digest)).await.unwrap());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_running_gc_takes_nothing_from_uploads_and_trainings_that_finish(db: PgPool) {
    let service = Service::start(db.clone()).await;
    service.concept_with_photos("rex", 4).await;
    let until = Instant::now() + Duration::from_secs(12);
    // Shorter than it is good for: an upload takes a fraction of it.
    let grace = Duration::from_secs(2);

    let collecting = async {
        let (mut runs, mut deleted) = (0, 0);
        while Instant::now() < until {
            deleted += gc(&service, grace, false).await.deleted();
            runs += 1;
        }
        (runs, deleted)
    };
    let uploading = async {
        let mut urls = Vec::new();
        let mut number = 0_u32;
        while Instant::now() < until {
            // An upload that is stray for ever beside one that is not.
            write(&service, &StorageKey::upload(ImageId::generate())).await;
            let answer = service.upload_image(png(64 + number / 200, 64, number as u8)).await;
            assert_eq!(answer.status, 201, "{answer:?}");
            urls.push(answer.text("url"));
            number += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        urls
    };
    // The same set again and again: uploaded, deleted, old enough to be collected or not, and uploaded again.
    let sets = async {
        let mut last = None;
        let mut pause = 0;
        while Instant::now() < until {
            if let Some(id) = last {
                let path = format!("/v1/image-sets/{id}");
                service.send(service.request(Method::DELETE, &path)).await;
                tokio::time::sleep(Duration::from_millis(pause % 3500)).await;
                pause += 700;
            }
            let set = upload(&service, captioned(&["a dog", "two dogs"])).await;
            let content = format!("/v1/image-sets/{}/images/1/content", set.text("id"));
            for _ in 0..10 {
                let answer = service.get(&content).await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
            last = Some(set.text("id"));
        }
    };
    let finishing = async {
        let mut jobs = Vec::new();
        while Instant::now() < until {
            let job_id = JobId::generate();
            db::job::enqueue(&db, NewJob::new(job_id, &any_task(), 1, 1.0)).await.unwrap();
            let leased = lease(&db, "test", Duration::from_secs(60)).await.unwrap();
            let key = StorageKey::delta(leased.job_id, leased.fence);
            write(&service, &key).await;
            // Longer than the grace: it is the job that keeps the object.
            tokio::time::sleep(grace + Duration::from_millis(1500)).await;
            let mut tx = db.begin().await.unwrap();
            assert!(db::job::succeed(&mut *tx, leased.job_id, leased.fence).await.unwrap());
            let row = db::delta::NewDelta {
                delta_id: vstar::domain::id::DeltaId::generate(),
                job_id: leased.job_id,
                base_digest: "b",
                storage_key: &key,
                size_bytes: 7,
                sha256: "s",
            };
            db::delta::record(&mut *tx, row).await.unwrap();
            tx.commit().await.unwrap();
            jobs.push(key);
        }
        jobs
    };
    let ((runs, deleted), urls, (), deltas) = tokio::join!(collecting, uploading, sets, finishing);

    assert!(runs > 10 && deleted > 10, "gc had nothing to do: {runs} runs, {deleted} deleted");
    for url in &urls {
        assert_eq!(service.get(url).await.status, 200, "{url}");
    }
    assert!(deltas.len() >= 2);
    for key in &deltas {
        assert!(service.storage.exists(key).await.unwrap(), "{key}");
    }
    let report = gc(&service, grace, true).await;
    assert_eq!(report.lost_count, 0, "{report}");
    println!("{runs} runs of gc, {deleted} deleted beside {} uploads", urls.len());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_store_is_collected_page_by_page(db: PgPool) {
    const STRAYS: usize = 2500; // a page has 1000
    let service = Service::start(db.clone()).await;
    service.concept_with_photos("rex", 4).await;
    for _ in 0..STRAYS {
        write(&service, &StorageKey::upload(ImageId::generate())).await;
    }
    tokio::time::sleep(OLD_ENOUGH).await;

    let report = gc(&service, Duration::ZERO, false).await;

    assert_eq!(report.deleted(), STRAYS);
    assert_eq!((report.rows, report.lost_count), (4, 0), "{report}");
}
