//! Requests that are tried: they answer what they would make, and make nothing.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{DIGEST, Service};

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_dry_run_answers_what_would_be_made_and_makes_nothing(db: PgPool) {
    let service = Service::with_evaluator(db).await;
    service.trained_concept("rex", DIGEST).await;
    let (_, max) = service.trained_concept("max", DIGEST).await;

    for (path, body) in [
        ("/v1/trainings".to_owned(), json!({ "concepts": ["rex"], "seed": 7 })),
        ("/v1/samples".to_owned(), json!({ "prompt": "photo of a <rex> dog", "seed": 7 })),
        (
            "/v1/merges".to_owned(),
            json!({ "concepts": [{ "concept": "rex" }, { "concept": "max" }] }),
        ),
        (
            "/v1/evaluations".to_owned(),
            json!({
                "subjects": [{ "concepts": [{ "concept": "rex" }] }], "prompts": ["photo of a {}"], "images_per_prompt": 10,
                "seed": 7,
            }),
        ),
        (format!("/v1/deltas/{max}/compress"), json!({ "rank": 4 })),
    ] {
        let before = service.contents().await;
        let mut tried = body.clone();
        tried["dry_run"] = json!(true);
        let tried = service.post(&path, tried).await;

        assert_eq!(tried.status, 200, "{path}: {tried:?}");
        assert_eq!(tried.body["object"], "dry_run", "{path}");
        assert!(tried.body["estimate"]["run_seconds"].is_number(), "{path}: {tried:?}");
        assert!(tried.body["warnings"].is_array(), "{path}");
        let of_sample = path == "/v1/samples";
        assert_eq!(tried.body["prompt_tokens"], if of_sample { json!(7) } else { Value::Null });
        assert_eq!(service.contents().await, before, "{path}");

        let made = service.post(&path, body).await;
        assert_eq!(made.status, 202, "{path}: {made:?}");
        for (name, value) in tried.body["resolved"].as_object().unwrap() {
            assert_eq!(made.body.get(name), Some(value), "{path}: {name}");
        }
        assert_eq!(made.body["warnings"], tried.body["warnings"], "{path}");
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_dry_run_is_refused_as_the_request_itself_would_be(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("few", 3).await;

    for (path, body) in [
        ("/v1/trainings", json!({ "concepts": ["few"] })),
        ("/v1/samples", json!({ "prompt": "a <nobody> dog" })),
        ("/v1/merges", json!({ "concepts": [] })),
    ] {
        let mut tried = body.clone();
        tried["dry_run"] = json!(true);
        let (tried, made) = (service.post(path, tried).await, service.post(path, body).await);

        assert_eq!(tried.status, 422, "{path}: {tried:?}");
        assert_eq!(tried.problem(), made.problem(), "{path}");
    }
    let said = json!({ "prompt": "a dog", "dry_run": false });
    assert_eq!(service.post("/v1/samples", said).await.status, 202);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_that_is_tried_reports_its_photos(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 5).await;

    let body = json!({ "concepts": ["rex"], "recipe": { "max_train_steps": 100, "instance_batch_size": 4 }, "dry_run": true });
    let tried = service.post("/v1/trainings", body).await;

    let dataset = &tried.body["dataset"];
    let concept = &dataset["concepts"][0];
    assert_eq!(
        (&concept["handle"], &concept["image_count"], &concept["smallest_side"]),
        (&json!("rex"), &json!(5), &json!(48)),
        "{tried:?}"
    );
    assert_eq!(dataset["passes"], 80.0);
    assert!(concept["captions"][0].as_str().unwrap().contains("<rex> dog"), "{concept}");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn an_estimate_goes_by_jobs_that_have_run_and_by_those_that_wait(db: PgPool) {
    let service = Service::start(db).await;
    let body = json!({ "prompt": "a cat", "dry_run": true });
    let assumed = service.post("/v1/samples", body.clone()).await.body["estimate"].clone();
    assert_eq!((&assumed["measured_jobs"], &assumed["jobs_ahead"]), (&json!(0), &json!(0)));

    // The same sample took 100 seconds, three times; then two wait.
    for _ in 0..3 {
        service.post("/v1/samples", json!({ "prompt": "a cat" })).await;
    }
    sqlx::query(
        "update job set state = 'succeeded', attempts = 1, started_at = now() - interval '100 s', \
         attempt_started_at = now() - interval '100 s', finished_at = now()",
    )
    .execute(&service.db)
    .await
    .unwrap();
    for _ in 0..2 {
        service.post("/v1/samples", json!({ "prompt": "a cat" })).await;
    }

    let number = |estimate: &Value, name: &str| estimate[name].as_f64().unwrap();
    let measured = service.post("/v1/samples", body.clone()).await.body["estimate"].clone();
    assert_eq!((&measured["measured_jobs"], &measured["jobs_ahead"]), (&json!(3), &json!(2)));
    assert!((number(&measured, "run_seconds") - 100.0).abs() < 1.0, "{measured}");
    assert!((number(&measured, "queue_seconds") - 200.0).abs() < 2.0, "{measured}");

    let mut urgent = body;
    urgent["priority"] = json!("high");
    let urgent = service.post("/v1/samples", urgent).await.body["estimate"].clone();
    assert_eq!((&urgent["jobs_ahead"], number(&urgent, "queue_seconds")), (&json!(0), 0.0));
}
