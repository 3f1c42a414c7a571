//! What a training draws of itself while it runs.

use std::time::Duration;

use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::db;
use vstar::domain::training_preview::TrainingPreview;

use crate::end_to_end::Whole;
use crate::harness::{Service, lease};

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn previews_are_resolved_or_refused_beside_their_fields(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;
    let with = |previews: &Value| {
        let recipe = json!({ "max_train_steps": 100 });
        json!({ "concepts": ["rex"], "recipe": recipe, "previews": previews })
    };

    let asked = json!({ "prompts": ["photo of a {}"] });
    let training = service.post("/v1/trainings", with(&asked)).await;

    assert_eq!(training.status, 202, "{}", training.body);
    let previews = &training.body["previews"];
    let prompt = previews["prompts"][0].as_str().unwrap();
    assert!(prompt.starts_with("photo of a <rex> "), "{prompt}");
    assert_eq!((&previews["every"], &previews["seed"]), (&json!(20), &json!(0)));
    let path = format!("/v1/trainings/{}/previews", training.text("id"));
    assert_eq!(service.get(&path).await.body["data"], json!([]));
    assert_eq!(service.get(&format!("{path}/20/0")).await.status, 404);
    for (previews, pointer) in [
        (json!({ "prompts": [] }), "/previews/prompts"),
        (json!({ "prompts": ["a", "b", "c", "d", "e"] }), "/previews/prompts"),
        (json!({ "prompts": ["a {}"], "every": 2 }), "/previews/every"),
        (json!({ "prompts": ["a {}"], "every": 0 }), "/previews/every"),
        (json!({ "prompts": ["a {}"], "seed": 9_007_199_254_740_992_u64 }), "/previews/seed"),
        (json!({ "prompts": ["a {}", "dog ".repeat(200)] }), "/previews/prompts/1"),
    ] {
        let refused = service.post("/v1/trainings", with(&previews)).await;
        assert_eq!(refused.status, 422, "{previews}");
        assert_eq!(refused.body["errors"][0]["pointer"], pointer, "{previews}: {}", refused.body);
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn previews_of_a_lost_lease_are_not_taken_and_those_that_were_stay(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("rex", 4).await;
    let asked = json!({ "concepts": ["rex"], "previews": { "prompts": ["a {}"] } });
    let id = service.post("/v1/trainings", asked).await.text("id");
    let leased = lease(&service.db, "gpu-0", Duration::from_secs(60)).await.unwrap();
    let (job_id, fence) = (leased.job_id, leased.fence);
    let record = async |fence, step, png: &[u8]| {
        let preview = TrainingPreview { step, index: 0 };
        db::training_preview::record(&service.db, job_id, fence, preview, png).await.unwrap();
    };

    record(fence, 80, b"eighty").await;
    record(fence, 0, b"base").await;
    record(fence, 80, b"eighty again").await;
    record(fence - 1, 160, b"lost").await;
    service.post(&format!("/v1/trainings/{id}/cancel"), json!({})).await;
    assert!(db::job::stop(&service.db, job_id, fence).await.unwrap());

    let path = format!("/v1/trainings/{id}/previews");
    let url = |step: i32| format!("{path}/{step}/0");
    let expected = json!([
        { "step": 0, "index": 0, "url": url(0) },
        { "step": 80, "index": 0, "url": url(80) },
    ]);
    assert_eq!(service.get(&path).await.body["data"], expected);
    assert_eq!(service.get(&url(80)).await.bytes, b"eighty");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_draws_what_it_has_learned_and_its_delta_is_the_same(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<my-dog>")).await;
    let recipe = json!({
        "max_train_steps": 5, "instance_batch_size": 2, "class_batch_size": 0, "learning_rate": 0.01,
    });
    let plain = json!({ "concepts": ["dog"], "recipe": recipe, "seed": 1 });
    let mut drawing = plain.clone();
    drawing["previews"] = json!({ "prompts": ["photo of a {}"], "every": 2, "seed": 7 });

    let plain = whole.run("/v1/trainings", plain).await;
    let drawn = whole.run("/v1/trainings", drawing).await;

    let mut digests = Vec::new();
    for training in [&plain, &drawn] {
        let delta = whole.service.get(&format!("/v1/deltas/{}", training.text("delta"))).await;
        digests.push(delta.text("sha256"));
    }
    assert_eq!(digests[0], digests[1], "previews have changed what was learned");
    let path = format!("/v1/trainings/{}/previews", drawn.text("id"));
    let list = whole.service.get(&path).await;
    let steps: Vec<_> = list.body["data"].as_array().unwrap().iter().collect();
    let at: Vec<_> = steps.iter().map(|preview| preview["step"].as_i64().unwrap()).collect();
    assert_eq!(at, [0, 2, 4, 5]);
    let mut images = Vec::new();
    for preview in steps {
        let image = whole.service.get(preview["url"].as_str().unwrap()).await;
        let image = image::load_from_memory(&image.bytes).unwrap().into_rgb8();
        images.push(image);
    }
    assert_ne!(images[1], images[3], "three more steps have changed nothing");
    // The last is what a sample of the delta gives.
    let sample = json!({
        "prompt": "photo of a <my-dog> dog", "seed": 7, "concepts": [{ "delta": drawn.text("delta") }],
    });
    let sampled = whole.images(sample).await;
    assert_eq!(image::load_from_memory(&sampled[0]).unwrap().into_rgb8(), images[3]);
    whole.end().await;
}
