//! Trainings as requests: what is queued, what is refused, what a canceled one says.

use std::time::Duration;

use serde_json::json;
use sqlx::PgPool;
use vstar::db;
use vstar::domain::job::{Metric, Phase, Progress};

use crate::harness::{Service, lease, png};

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_is_queued_with_every_number_filled_in(db: PgPool) {
    let service = Service::start(db).await;
    let id = service.concept_with_photos("rex", 4).await;
    service.concept_with_photos("max", 5).await;

    let body = json!({
        "concepts": [id, "max"], "preset": "paper", "recipe": { "learning_rate": 1e-4 }, "seed": 7,
    });
    let training = service.post("/v1/trainings", body).await;

    assert_eq!(training.status, 202, "{training:?}");
    assert_eq!(training.body["status"], "queued");
    assert_eq!(training.body["queue"]["position"], 0);
    assert_eq!(training.body["recipe"]["max_train_steps"], 500); // twice the paper's for two concepts
    assert_eq!(training.body["recipe"]["learning_rate"], 1e-4);
    assert_eq!(training.body["seed"], 7);
    assert_eq!(training.body["concepts"][1]["image_count"], 5);
    assert_eq!(service.get(training.header("location")).await.body, training.body);
    let second = service.post("/v1/trainings", json!({ "concepts": ["max"] })).await;
    assert_eq!(second.body["queue"]["position"], 1);
    assert!(second.body["seed"].is_u64(), "the server chooses a seed");
    let list = service.get("/v1/trainings").await;
    assert_eq!(list.body["data"][0]["id"], second.body["id"]);
    assert_eq!(list.body["data"][1]["id"], training.body["id"]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn without_class_images_the_recipe_says_so(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;

    let training =
        service.post("/v1/trainings", json!({ "concepts": ["rex"], "class_images": "none" })).await;

    assert_eq!(training.body["class_images"], "none");
    assert_eq!(training.body["recipe"]["class_batch_size"], 0);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_that_makes_no_sense_changes_nothing(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;
    service.concept_with_photos("few", 3).await;
    for handle in ["gate", "arch"] {
        let id = service.concept(handle, None, "gate").await;
        let files = (0..4).map(|shade| ("photo.png", png(64, 48, shade))).collect();
        service.upload(&format!("/v1/concepts/{id}/images"), files).await;
    }
    let before = service.contents().await;

    let long = format!("photo of a {{}} {}", "in the snow ".repeat(14));
    for (body, code, pointer) in [
        (json!({ "concepts": ["few"] }), "dataset_too_small", "/concepts/0"),
        (json!({ "concepts": ["rex", "few"] }), "dataset_too_small", "/concepts/1"),
        (json!({ "concepts": [] }), "out_of_range", "/concepts"),
        (json!({ "concepts": ["nobody"] }), "unknown_concept", "/concepts/0"),
        (json!({ "concepts": ["rex", "rex"] }), "ambiguous_concept", "/concepts/1"),
        (json!({ "concepts": ["rex"], "steps": 3 }), "unknown_field", "/steps"),
        (
            json!({ "concepts": ["rex"], "recipe": { "max_train_steps": 0 } }),
            "out_of_range",
            "/recipe/max_train_steps",
        ),
        (
            json!({ "concepts": ["rex"], "recipe": { "steps": 3 } }),
            "unknown_field",
            "/recipe/steps",
        ),
        (
            json!({ "concepts": ["rex"], "recipe": { "learning_rate": -1 } }),
            "out_of_range",
            "/recipe/learning_rate",
        ),
        (
            json!({ "concepts": ["rex"], "recipe": { "instance_templates": [long] } }),
            "prompt_too_long",
            "/recipe/instance_templates/0",
        ),
        (
            json!({ "concepts": ["rex"], "recipe": { "small_prefixes": ["far ".repeat(28)] } }),
            "prompt_too_long",
            "/recipe/small_prefixes/0",
        ),
        (
            json!({ "concepts": ["rex"], "recipe": { "initializer_tokens": [] } }),
            "invalid_value",
            "/recipe/initializer_tokens",
        ),
        (
            json!({ "concepts": ["rex"], "recipe": { "initializer_tokens": ["nosuchword", "ktn"] } }),
            "invalid_value",
            "/recipe/initializer_tokens/0",
        ),
        (
            json!({ "concepts": ["rex"], "recipe": { "initializer_candidates": ["nosuchword"] } }),
            "invalid_value",
            "/recipe/initializer_candidates/0",
        ),
        (
            json!({ "concepts": ["rex"], "recipe": { "initializer_tokens": ["ktn", "nosuchword"] } }),
            "invalid_value",
            "/recipe/initializer_tokens/1",
        ),
        (json!({ "concepts": ["gate", "arch"] }), "ambiguous_concept", "/concepts/1"),
        (
            json!({ "concepts": ["gate"], "recipe": { "initializer_candidates": ["nosuchword"] } }),
            "invalid_value",
            "/recipe/initializer_candidates/0",
        ),
        (json!({ "concepts": ["rex"], "preset": "fast" }), "invalid_value", "/preset"),
        (json!({ "concepts": ["rex"], "seed": -1 }), "invalid_value", "/seed"),
        (
            json!({ "concepts": ["rex"], "seed": 9_007_199_254_740_992_u64 }),
            "out_of_range",
            "/seed",
        ),
    ] {
        let answer = service.post("/v1/trainings", body.clone()).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]), "{body}");
    }
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_waiting_training_is_canceled_at_once_and_a_running_one_soon(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;
    let running = service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await.text("id");
    let waiting = service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await.text("id");
    let leased = lease(&service.db, "gpu-0", Duration::from_secs(60)).await.unwrap();

    let soon = service.post(&format!("/v1/trainings/{running}/cancel"), json!({})).await;
    let at_once = service.post(&format!("/v1/trainings/{waiting}/cancel"), json!({})).await;

    assert_eq!((soon.status, soon.text("status").as_str()), (202, "canceling"));
    assert_eq!((at_once.status, at_once.text("status").as_str()), (200, "canceled"));
    let asked =
        db::job::renew_lease(&service.db, leased.job_id, leased.fence, Duration::from_secs(60))
            .await;
    assert_eq!(asked.unwrap(), Some(true));
    assert!(db::job::stop(&service.db, leased.job_id, leased.fence).await.unwrap());
    let ended = service.post(&format!("/v1/trainings/{running}/cancel"), json!({})).await;
    assert_eq!((ended.status, ended.text("status").as_str()), (200, "canceled"));
    assert!(lease(&service.db, "gpu-0", Duration::from_secs(60)).await.is_none());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn progress_and_the_loss_curve_are_told(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;
    let id = service.post("/v1/trainings", json!({ "concepts": ["rex"] })).await.text("id");
    let leased = lease(&service.db, "gpu-0", Duration::from_secs(60)).await.unwrap();

    let progress = Progress {
        step: 2,
        total_steps: 8,
        loss: Some(0.5),
        steps_per_second: Some(2.0),
        eta_seconds: Some(3.0),
        previews: Vec::new(),
    };
    let lease_time = Duration::from_secs(60);
    let (job_id, fence) = (leased.job_id, leased.fence);
    db::job::report(&service.db, job_id, fence, Phase::Optimizing, Some(&progress), lease_time)
        .await
        .unwrap();
    let metrics = [1, 2].map(|step| Metric { step, loss: f64::from(step) / 4.0, grad_norm: None });
    db::metric::record(&service.db, job_id, fence, &metrics).await.unwrap();
    db::metric::record(
        &service.db,
        job_id,
        fence - 1,
        &[Metric { step: 3, loss: 9.0, grad_norm: None }],
    )
    .await
    .unwrap();

    let training = service.get(&format!("/v1/trainings/{id}")).await;
    assert_eq!(
        (training.text("status").as_str(), training.text("phase").as_str()),
        ("running", "optimizing")
    );
    assert_eq!(training.body["progress"]["step"], 2);
    assert_eq!(training.body["progress"]["eta_seconds"], 3.0);
    assert_eq!(training.body["queue"], json!(null));
    let curve = service.get(&format!("/v1/trainings/{id}/metrics")).await;
    assert_eq!(
        curve.body["data"].as_array().unwrap().len(),
        2,
        "points of a lost lease are not taken"
    );
    let rest = service.get(&format!("/v1/trainings/{id}/metrics?since_step=1")).await;
    assert_eq!(rest.body["data"], json!([{ "step": 2, "loss": 0.5, "grad_norm": null }]));
}
