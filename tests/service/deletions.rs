//! Deletions: what goes with an object, what is named instead, and what happens to jobs beside it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::db;
use vstar::domain::id::{ConceptId, ImageId, JobId, ProjectId, SampleId};
use vstar::domain::image::{Image, ImageSource};
use vstar::domain::record::Record;
use vstar::gc::{GcOptions, collect};
use vstar::storage::StorageKey;

use crate::end_to_end::Whole;
use crate::harness::{Answer, DIGEST, Service, lease, png};

async fn delete(service: &Service, path: &str) -> Answer {
    service.send(service.request(Method::DELETE, path)).await
}

/// The keys of all objects.
async fn keys(service: &Service) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for folder in StorageKey::FOLDERS {
        let objects: Vec<_> = service.storage.list(folder).try_collect().await.unwrap();
        keys.extend(objects.into_iter().map(|object| object.key.to_string()));
    }
    keys
}

/// Ends the next job as a worker does.
async fn finish_next(service: &Service) -> (JobId, i64) {
    let leased = lease(&service.db, "test", Duration::from_secs(60)).await.unwrap();
    assert!(db::job::succeed(&service.db, leased.job_id, leased.fence).await.unwrap());
    (leased.job_id, leased.fence)
}

/// Draws an image of a concept without a worker. Returns the paths of the sample and the image.
async fn sampled(service: &Service, prompt: &str) -> (String, String) {
    let started = service.post("/v1/samples", json!({ "prompt": prompt })).await;
    assert_eq!(started.status, 202, "{started:?}");
    let (job_id, fence) = finish_next(service).await;
    let key = StorageKey::sample(job_id, fence, 0);
    service.storage.write(&key, "png").await.unwrap();
    let image = Image {
        image_id: ImageId::generate(),
        source: ImageSource::Sample { sample_id: SampleId::from(job_id), index: 0 },
        width: 1,
        height: 1,
        size_bytes: 3,
        sha256: "abc".into(),
        storage_key: key,
        regions: Vec::new(),
        created_at: chrono::Utc::now(),
        record: Record::new(chrono::Utc::now(), Default::default()),
    };
    db::image::record(&service.db, ProjectId::DEFAULT, &image).await.unwrap();
    (started.header("location").to_owned(), format!("/v1/images/{}", image.image_id))
}

/// Merges two concepts without a worker. Returns the paths of the merge and its delta.
async fn merged(service: &Service, concepts: [&str; 2]) -> (String, String) {
    let body = json!({ "concepts": concepts.map(|concept| json!({ "concept": concept })) });
    let started = service.post("/v1/merges", body).await;
    assert_eq!(started.status, 202, "{started:?}");
    let (job_id, _) = finish_next(service).await;
    let ids: Vec<ConceptId> = started.body["concepts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap().parse().unwrap())
        .collect();
    let delta_id = vstar::domain::id::DeltaId::generate();
    let row = db::delta::NewDelta {
        delta_id,
        job_id,
        base_digest: DIGEST,
        storage_key: &format!("jobs/{job_id}/merged"),
        size_bytes: 5,
        sha256: "merged",
    };
    db::delta::record(&service.db, row).await.unwrap();
    db::delta::record_concepts(&service.db, delta_id, &ids).await.unwrap();
    (started.header("location").to_owned(), format!("/v1/deltas/{delta_id}"))
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_concept_goes_with_everything_that_is_its_own(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("max", DIGEST).await;
    let (kept_sample, kept_image) = sampled(&service, "<max> dog").await;
    let others = keys(&service).await;
    let (_, delta) = service.trained_concept("rex", DIGEST).await;
    let (sample, image) = sampled(&service, "<rex> dog").await;
    assert_eq!(keys(&service).await.len(), others.len() + 5);

    let deleted = delete(&service, "/v1/concepts/rex").await;

    assert_eq!(deleted.status, 200, "{deleted:?}");
    let removed = &deleted.body["removed"];
    for (kind, count) in [
        ("concepts", 1),
        ("photos", 4),
        ("images", 1),
        ("deltas", 1),
        ("trainings", 1),
        ("samples", 1),
        ("merges", 0),
    ] {
        assert_eq!(removed[kind], count, "{kind}: {deleted:?}");
    }
    assert!(deleted.body["size_bytes"].as_i64().unwrap() > 6, "{deleted:?}");
    assert_eq!(keys(&service).await, others, "its objects are gone at once");
    for path in ["/v1/concepts/rex", &sample, &image, &format!("/v1/deltas/{delta}")] {
        assert_eq!(service.get(path).await.status, 404, "{path}");
    }
    for path in ["/v1/concepts/max", &kept_sample, &kept_image] {
        assert_eq!(service.get(path).await.status, 200, "{path}");
    }
    // Its names are free again.
    service.concept("rex", Some("<rex>"), "dog").await;
    assert_eq!(delete(&service, "/v1/concepts/none").await.problem().0, 404);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_depends_on_a_concept_is_named_or_goes_with_it(db: PgPool) {
    let service = Service::start(db).await;
    let (_, rex) = service.trained_concept("rex", DIGEST).await;
    let (max, of_max) = service.trained_concept("max", DIGEST).await;
    let (merge, delta) = merged(&service, ["rex", "max"]).await;
    let id = |path: &str| path.rsplit_once('/').unwrap().1.to_owned();
    // The merge is the other concept's current delta.
    let promoted = service.post("/v1/concepts/max/promote", json!({ "delta": id(&delta) })).await;
    assert_eq!(promoted.status, 200, "{promoted:?}");
    let queued = service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await;
    let before = service.contents().await;

    let refused = delete(&service, "/v1/concepts/rex").await;

    let (status, code, pointers) = refused.problem();
    assert_eq!((status, code), (409, "concept_in_use"), "{refused:?}");
    assert!(pointers.iter().all(|pointer| *pointer == "cascade"));
    let detail = refused.text("detail");
    for named in [id(&delta), id(&merge), queued.text("id")] {
        assert!(detail.contains(&named), "{named}: {detail}");
    }
    assert_eq!(service.contents().await, before);

    let deleted = delete(&service, "/v1/concepts/rex?cascade=true").await;

    assert_eq!(deleted.status, 200, "{deleted:?}");
    for (kind, count) in [("deltas", 2), ("merges", 1), ("trainings", 2)] {
        assert_eq!(deleted.body["removed"][kind], count, "{kind}: {deleted:?}");
    }
    let current = json!([{ "concept": max, "current_delta": of_max }]);
    assert_eq!(deleted.body["current_deltas"], current);
    assert_eq!(service.get("/v1/concepts/max").await.body["current_delta"], of_max.as_str());
    for path in [&merge, &delta, &format!("/v1/deltas/{rex}"), queued.header("location")] {
        assert_eq!(service.get(path).await.status, 404, "{path}");
    }
    assert!(
        lease(&service.db, "test", Duration::from_secs(60)).await.is_none(),
        "nothing is left to do"
    );
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_current_delta_goes_only_if_asked(db: PgPool) {
    let service = Service::start(db).await;
    let (rex, first) = service.trained_concept("rex", DIGEST).await;
    let second = service.train_without_worker("rex", DIGEST).await.to_string();
    let training = service.get(&format!("/v1/deltas/{second}")).await.text("made_by");
    let sample = service.post("/v1/samples", json!({ "prompt": "<rex> dog" })).await;
    let path = format!("/v1/deltas/{second}");

    let refused = delete(&service, &path).await;
    assert_eq!((refused.problem().0, refused.problem().1), (409, "delta_in_use"));
    assert!(refused.text("detail").contains(&rex), "{refused:?}");
    let refused = delete(&service, &training).await;
    assert_eq!((refused.problem().0, refused.problem().1), (409, "job_in_use"));

    let etag = service.get(&training).await.header("etag").to_owned();
    let deleted = delete(&service, &format!("{path}?cascade=true")).await;
    assert_eq!(
        (deleted.status, &deleted.body["removed"]["deltas"]),
        (200, &json!(1)),
        "{deleted:?}"
    );
    assert_eq!(service.get("/v1/concepts/rex").await.text("current_delta"), first);
    let after = service.get(&training).await;
    assert_eq!((after.status, &after.body["delta"]), (200, &Value::Null));
    assert_ne!(after.header("etag"), etag);
    assert_eq!(delete(&service, &training).await.body["removed"]["trainings"], 1);
    // A sample that waits keeps the delta that it was asked for.
    assert_eq!(
        service.get(sample.header("location")).await.body["deltas"][0]["delta"],
        second.as_str()
    );
    // A training goes with its delta by cascade.
    let training = service.get(&format!("/v1/deltas/{first}")).await.text("made_by");
    let deleted = delete(&service, &format!("{training}?cascade=true")).await;
    assert_eq!(
        (&deleted.body["removed"]["deltas"], &deleted.body["removed"]["trainings"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(service.get("/v1/concepts/rex").await.body["current_delta"], Value::Null);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_job_that_waits_keeps_the_files_that_it_needs(db: PgPool) {
    let service = Service::start(db.clone()).await;
    service.concept_with_photos("rex", 5).await;
    let upload = service.upload_image(png(64, 48, 9)).await;
    let sample =
        json!({ "prompt": "a dog", "init_image": upload.text("id"), "noise_strength": 0.5 });
    let sample = service.post("/v1/samples", sample).await;
    assert_eq!(sample.status, 202, "{sample:?}");
    let training = service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await;
    let photos = service.get("/v1/concepts/rex/images").await;
    let photo = photos.body["data"][0]["id"].as_str().unwrap().to_owned();
    let before = keys(&service).await;

    let paths =
        [format!("/v1/concepts/rex/images/{photo}"), format!("/v1/images/{}", upload.text("id"))];
    for path in &paths {
        let deleted = delete(&service, path).await;
        assert_eq!(deleted.status, 200, "{path}: {deleted:?}");
        assert_eq!(delete(&service, path).await.problem().0, 404);
    }
    assert_eq!(service.get("/v1/concepts/rex").await.body["image_count"], 4);
    assert_eq!(keys(&service).await, before, "two jobs that have not ended name them");
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let gc = GcOptions { dry_run: false, grace: Duration::ZERO };
    assert_eq!(collect(&db, &service.storage, &gc).await.unwrap().deleted(), 0);

    for job in [&sample, &training] {
        let path = job.header("location");
        assert_eq!(delete(&service, path).await.problem().1, "job_not_ended");
        service.post(&format!("{path}/cancel"), json!({})).await;
        assert_eq!(delete(&service, path).await.status, 200);
    }
    let done = collect(&db, &service.storage, &gc).await.unwrap();
    assert_eq!((done.deleted(), done.lost_count), (2, 0), "{done}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn images_of_a_sample_go_alone_or_with_it(db: PgPool) {
    let service = Service::start(db).await;
    let (sample, image) = sampled(&service, "a dog").await;
    let (other, _) = sampled(&service, "a cat").await;
    let etag = service.get(&sample).await.header("etag").to_owned();

    assert_eq!(delete(&service, &image).await.body["removed"]["images"], 1);
    let after = service.get(&sample).await;
    assert_eq!(after.body["images"], json!([]));
    assert_ne!(after.header("etag"), etag);
    let stale = service.request(Method::DELETE, &sample).header("if-match", etag);
    assert_eq!(service.send(stale).await.problem().0, 412);
    let deleted = delete(&service, &other).await;
    assert_eq!(
        (&deleted.body["removed"]["samples"], &deleted.body["removed"]["images"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(delete(&service, &sample).await.body["removed"]["samples"], 1);
    assert!(keys(&service).await.is_empty());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn nothing_is_queued_for_what_is_just_deleted(db: PgPool) {
    let service = Service::start(db.clone()).await;
    for round in 0..4 {
        let handle = format!("rex{round}");
        service.trained_concept(&handle, DIGEST).await;
        let path = format!("/v1/concepts/{handle}?cascade=true");
        let prompt = json!({ "prompt": format!("<{handle}> dog") });
        let samples = (0..8).map(|_| service.post("/v1/samples", prompt.clone()));
        let (deleted, samples) =
            tokio::join!(delete(&service, &path), futures::future::join_all(samples));

        assert_eq!(deleted.status, 200, "{deleted:?}");
        for sample in samples {
            let code = sample.body["code"].as_str().unwrap_or_default();
            let is_refused = ["unknown_concept", "not_found", "deleted_meanwhile"].contains(&code);
            assert!(sample.status == 202 || is_refused, "{sample:?}");
        }
        let left: i64 =
            sqlx::query_scalar("select count(*) from job").fetch_one(&db).await.unwrap();
        assert_eq!(left, 0, "what was queued before went with the concept");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_worker_drops_the_training_of_a_deleted_concept_and_goes_on(db: PgPool) {
    let whole = Whole::start(db.clone()).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.concept("gate", None).await;
    let recipe = json!({ "max_train_steps": 100_000, "instance_batch_size": 1, "class_batch_size": 0,
        "initializer_candidates": [], "rank": 2 });
    let long =
        whole.service.post("/v1/trainings", json!({ "concepts": ["dog"], "recipe": recipe })).await;
    let path = long.header("location").to_owned();
    whole.wait_for(&path, |training| training.body["phase"] == "optimizing").await;

    let refused = delete(&whole.service, "/v1/concepts/dog").await;
    assert!(refused.text("detail").contains("has not ended"), "{refused:?}");
    let deleted = delete(&whole.service, "/v1/concepts/dog?cascade=true").await;
    assert_eq!(deleted.body["removed"]["trainings"], 1, "{deleted:?}");

    // The worker has noticed, and does what comes next.
    whole.train(json!(["gate"])).await;
    assert_eq!(whole.service.get(&path).await.status, 404);
    whole.end().await;
    let failed: i64 = sqlx::query_scalar("select count(*) from job where state = 'failed'")
        .fetch_one(&db)
        .await
        .unwrap();
    assert_eq!(failed, 0);
}
