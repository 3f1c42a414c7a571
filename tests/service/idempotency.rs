//! Requests with an `Idempotency-Key`, sent once and again.
//!
//! Every test has keys of its own: the process knows which ones it serves, and the tests share it.

use reqwest::Method;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{Answer, Service, png};

async fn post(service: &Service, path: &str, key: &str, body: Value) -> Answer {
    let request = service.request(Method::POST, path).header("idempotency-key", key);
    service.send(request.json(&body)).await
}

async fn count(db: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(db).await.unwrap()
}

const JOBS: &str = "select count(*) from job";

fn concept(handle: &str) -> Value {
    json!({ "handle": handle, "class_noun": "dog" })
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_repeated_request_makes_nothing_and_is_answered_as_before(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let sample = json!({ "prompt": "a dog", "seed": 3 });

    for (path, body) in [("/v1/concepts", concept("rex")), ("/v1/samples", sample.clone())] {
        let first = post(&service, path, "order-7", body.clone()).await;
        let before = service.contents().await;
        let again = post(&service, path, "order-7", body).await;

        assert!((201..=202).contains(&first.status), "{first:?}");
        assert_eq!(first.header("idempotency-replayed"), "");
        assert_eq!(again.header("idempotency-replayed"), "true");
        assert_eq!((again.status, &again.bytes), (first.status, &first.bytes));
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.header("etag"), first.header("etag"));
        assert_eq!(service.contents().await, before);
    }

    // The same fields in another order are the same request; other fields are not; a key belongs to one operation.
    let request = service.request(Method::POST, "/v1/samples").header("idempotency-key", "order-7");
    let request = request.header("content-type", "application/json");
    let reordered = service.send(request.body(r#"{ "seed": 3, "prompt": "a dog" }"#)).await;
    assert_eq!(reordered.header("idempotency-replayed"), "true");
    let other = post(&service, "/v1/samples", "order-7", json!({ "prompt": "a cat" })).await;
    assert_eq!(other.problem(), (422, "idempotency_key_reused", vec![]));
    let new = post(&service, "/v1/samples", "order-8", sample).await;
    assert_eq!((new.status, new.header("idempotency-replayed")), (202, ""));
    assert_eq!(count(&db, JOBS).await, 2);
    for key in ["", " ", &"k".repeat(256)] {
        let refused = post(&service, "/v1/concepts", key, concept("gate")).await;
        assert_eq!(refused.problem(), (400, "malformed_header", vec![]), "{key}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_refused_request_leaves_its_key_free(db: PgPool) {
    let service = Service::with_queue_limit(db.clone(), 1).await;
    let sample = json!({ "prompt": "a dog" });

    let wrong = post(&service, "/v1/samples", "free-k", json!({ "prompt": "a dog", "n": 0 })).await;
    assert_eq!(wrong.problem().0, 422);
    let large =
        post(&service, "/v1/samples", "free-k", json!({ "prompt": "x".repeat(2 << 20) })).await;
    assert_eq!(large.problem().0, 413);
    assert_eq!(post(&service, "/v1/samples", "free-k", sample.clone()).await.status, 202);
    let full = post(&service, "/v1/samples", "free-l", sample.clone()).await;
    assert_eq!(full.problem(), (503, "queue_full", vec![]));
    sqlx::query("update job set state = 'canceled', finished_at = now()")
        .execute(&db)
        .await
        .unwrap();

    let after = post(&service, "/v1/samples", "free-l", sample).await;

    assert_eq!((after.status, after.header("idempotency-replayed")), (202, ""));
    assert_eq!(count(&db, JOBS).await, 2);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn of_many_requests_at_once_one_makes_it(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let beside = Service::with_storage(db.clone(), service.storage.clone()).await;

    let all = (0..20).map(|index| {
        let service = if index % 2 == 0 { &service } else { &beside };
        post(service, "/v1/samples", "many-k", json!({ "prompt": "a dog" }))
    });
    let all = futures::future::join_all(all).await;

    assert_eq!(count(&db, JOBS).await, 1);
    let mut made: Vec<String> = Vec::new();
    for answer in &all {
        match answer.status {
            202 => made.push(answer.text("id")),
            _ => {
                assert_eq!(answer.problem(), (409, "idempotency_in_flight", vec![]));
                assert_eq!(answer.header("retry-after"), "1");
            }
        }
    }
    made.dedup();
    assert_eq!(made.len(), 1, "{all:?}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_answer_that_was_not_kept_follows_from_what_was_made(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let mut made = Vec::new();
    for (path, body) in
        [("/v1/concepts", concept("rex")), ("/v1/samples", json!({ "prompt": "a" }))]
    {
        let first = post(&service, path, "killed-k", body.clone()).await;
        made.push((path, body, first));
    }

    // As a process leaves it that is killed between the two.
    let killed = "update idempotency_key set status = null, location = null, body = null";
    sqlx::query(killed).execute(&db).await.unwrap();

    for (path, body, first) in made {
        let again = post(&service, path, "killed-k", body).await;
        assert_eq!((again.status, again.text("id")), (first.status, first.text("id")), "{again:?}");
        assert_eq!(again.header("location"), first.header("location"));
        assert_eq!(again.header("idempotency-replayed"), "true");
    }
    assert_eq!(count(&db, JOBS).await, 1);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_form_is_the_same_if_its_parts_are(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let upload = async |key: &str, shade: u8| {
        let form = Form::new().part("file", Part::bytes(png(64, 48, shade)).file_name("a.png"));
        let request = service.request(Method::POST, "/v1/images").header("idempotency-key", key);
        service.send(request.multipart(form)).await
    };

    // Larger than a body of JSON may be.
    let large = async || {
        let noise = (0..900_u32 * 900).flat_map(|pixel| {
            let mixed = pixel.wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(40_503);
            [mixed as u8, (mixed >> 8) as u8, (mixed >> 16) as u8]
        });
        let image = image::RgbImage::from_raw(900, 900, noise.collect()).unwrap();
        let mut file = std::io::Cursor::new(Vec::new());
        image.write_to(&mut file, image::ImageFormat::Png).unwrap();
        assert!(file.get_ref().len() > 2 << 20, "{}", file.get_ref().len());
        let form = Form::new().part("file", Part::bytes(file.into_inner()).file_name("b.png"));
        let request =
            service.request(Method::POST, "/v1/images").header("idempotency-key", "form-l");
        service.send(request.multipart(form)).await
    };
    let (one, two) = (large().await, large().await);
    assert_eq!((one.status, two.status), (201, 201), "{two:?}");
    assert_eq!(one.text("id"), two.text("id"));

    let first = upload("form-k", 1).await;
    let again = upload("form-k", 1).await;
    let other = upload("form-k", 2).await;

    assert_eq!((first.status, again.status), (201, 201), "{again:?}");
    assert_eq!(again.text("id"), first.text("id"));
    assert_eq!(again.header("idempotency-replayed"), "true");
    assert_eq!(other.problem(), (422, "idempotency_key_reused", vec![]));
    assert_eq!(count(&db, "select count(*) from image").await, 2);
    let content = service.get(&first.text("url")).await;
    let request = service.request(Method::GET, &first.text("url"));
    let again = service.send(request.header("if-none-match", content.header("etag"))).await;
    assert_eq!((again.status, again.header("cache-control")), (304, ""));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_key_is_forgotten_after_a_day(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let first = post(&service, "/v1/samples", "day-k", json!({ "prompt": "a dog" })).await;
    let older = "update idempotency_key set created_at = created_at - interval '25 hours'";
    sqlx::query(older).execute(&db).await.unwrap();

    let second = post(&service, "/v1/samples", "day-k", json!({ "prompt": "a cat" })).await;
    let again = post(&service, "/v1/samples", "day-k", json!({ "prompt": "a cat" })).await;

    assert_ne!(first.text("id"), second.text("id"));
    assert_eq!(again.text("id"), second.text("id"));
    sqlx::query(older).execute(&db).await.unwrap();
    assert_eq!(vstar::db::idempotency::forget(&db).await.unwrap(), 1);
}
