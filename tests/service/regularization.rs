//! Regularization of a training: what a request may say, and what a worker makes of it.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::worker::WorkerConfig;

use crate::end_to_end::Whole;
use crate::harness::{Answer, Service, png};
use crate::image_sets::{captioned, upload, uploaded, zip};

/// Starts a training of `rex` with this regularization.
async fn started(service: &Service, regularization: Value) -> Answer {
    let body = json!({ "concepts": ["rex"], "regularization": regularization, "seed": 1 });
    service.post("/v1/trainings", body).await
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_request_is_resolved_into_sets_by_their_digests(db: PgPool) {
    let service = Service::with_evaluator(db).await;
    service.concept_with_photos("rex", 4).await;
    let captions = ["photo of a dog", "a cat", "photo of a dog", "a boat in the sea"];
    let set = uploaded(&service, &captions).await;
    let (id, digest) = (set.text("id"), set.text("digest"));

    let whole = started(&service, json!({ "source": "set", "set": id })).await;
    assert_eq!(whole.status, 202, "{whole:?}");
    let body = &whole.body["regularization"];
    assert_eq!((&body["source"], &body["select"]), (&json!("set"), &json!("all")));
    assert_eq!(body["set"], json!({ "digest": digest, "image_count": 4 }));
    assert_eq!(whole.body["class_images"], "auto");

    let retrieved =
        json!({ "source": "retrieved", "set": digest, "threshold": 1.0, "max_images": 50 });
    let retrieved = started(&service, retrieved).await;
    assert_eq!(retrieved.status, 202, "{retrieved:?}");
    let body = &retrieved.body["regularization"];
    assert_eq!((&body["threshold"], &body["set"]["digest"]), (&json!(1.0), &json!(digest)));
    let concept = &body["concepts"][0];
    assert_eq!(
        (&concept["prompt"], &concept["image_count"]),
        (&json!("photo of a dog"), &json!(2))
    );
    assert_eq!(concept["similarities"], json!([1.0, 1.0]));
    assert_eq!(retrieved.body["recipe"]["num_class_images"], 50);
    assert_eq!(service.get(retrieved.header("location")).await.body, retrieved.body);

    let generated = json!({ "source": "generated", "max_images": 8, "num_inference_steps": 5 });
    let generated = started(&service, generated).await;
    let concept = &generated.body["regularization"]["concepts"][0];
    assert_eq!((&concept["prompt"], &concept["set"]), (&json!("photo of a dog"), &Value::Null));
    assert_eq!(concept["generation"]["num_images"], 8);
    assert_eq!(concept["generation"]["num_inference_steps"], 5);

    let none = started(&service, json!({ "source": "none" })).await;
    assert_eq!(none.body["regularization"]["source"], "none");
    assert_eq!(
        (&none.body["class_images"], &none.body["recipe"]["class_batch_size"]),
        (&json!("none"), &json!(0))
    );

    // Without the field it is the base model's set, by class noun; the earlier field says the same.
    for body in
        [json!({ "concepts": ["rex"] }), json!({ "concepts": ["rex"], "class_images": "auto" })]
    {
        let default = service.post("/v1/trainings", body).await;
        let regularization = &default.body["regularization"];
        assert_eq!(
            (&regularization["source"], &regularization["select"]),
            (&json!("set"), &json!("class_noun"))
        );
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_a_source_cannot_use_is_refused_and_changes_nothing(db: PgPool) {
    let service = Service::with_evaluator(db.clone()).await;
    service.concept_with_photos("rex", 4).await;
    let set = uploaded(&service, &["a cat"]).await.text("id");
    let dry = format!("/v1/image-sets/{set}/retrieve");
    assert_eq!(service.post(&dry, json!({ "prompt": "a" })).await.status, 200); // it is indexed now
    let before = service.contents().await;

    for (regularization, code, pointer) in [
        (json!({ "source": "set", "set": "nothing" }), "unknown_image_set", "/regularization/set"),
        (json!({ "source": "set" }), "missing_field", "/regularization/set"),
        (
            json!({ "source": "retrieved", "set": set, "threshold": 1 }),
            "nothing_retrieved",
            "/regularization/threshold",
        ),
        (
            json!({ "source": "retrieved", "set": set, "threshold": 2 }),
            "out_of_range",
            "/regularization/threshold",
        ),
        (
            json!({ "source": "retrieved", "set": set, "prompt": "x ".repeat(100) }),
            "prompt_too_long",
            "/regularization/prompt",
        ),
        (
            json!({ "source": "retrieved", "set": set, "seed": 1 }),
            "not_applicable",
            "/regularization/seed",
        ),
        (json!({ "source": "none", "set": set }), "not_applicable", "/regularization/set"),
        (json!({ "source": "generated", "set": set }), "not_applicable", "/regularization/set"),
        (
            json!({ "source": "generated", "max_images": 1001 }),
            "out_of_range",
            "/regularization/max_images",
        ),
        (
            json!({ "source": "generated", "max_images": 0 }),
            "out_of_range",
            "/regularization/max_images",
        ),
        (
            json!({ "source": "generated", "num_inference_steps": 0 }),
            "out_of_range",
            "/regularization/num_inference_steps",
        ),
        (
            json!({ "source": "generated", "prompt": "a <rex> {}" }),
            "invalid_value",
            "/regularization/prompt",
        ),
        (
            json!({ "source": "generated", "prompt": "x ".repeat(100) }),
            "prompt_too_long",
            "/regularization/prompt",
        ),
        (json!({ "source": "web" }), "invalid_value", "/regularization/source"),
        (json!({ "source": "none", "images": 3 }), "unknown_field", "/regularization/images"),
        (json!({}), "missing_field", "/regularization/source"),
    ] {
        let refused = started(&service, regularization.clone()).await;
        assert_eq!(refused.problem(), (422, code, vec![pointer]), "{regularization}: {refused:?}");
    }
    let none = json!({ "source": "none" });
    let all = json!({ "source": "set", "set": set, "max_images": 3 });
    for (body, pointer) in [
        (
            json!({ "concepts": ["rex"], "regularization": none, "class_images": "none" }),
            "/class_images",
        ),
        (
            json!({ "concepts": ["rex"], "regularization": all, "recipe": { "class_batch_size": 0 } }),
            "/recipe/class_batch_size",
        ),
        (
            json!({ "concepts": ["rex"], "regularization": all, "recipe": { "num_class_images": 3 } }),
            "/recipe/num_class_images",
        ),
    ] {
        let refused = service.post("/v1/trainings", body).await;
        assert_eq!(refused.problem(), (422, "conflicting_fields", vec![pointer]), "{refused:?}");
    }
    assert_eq!(service.contents().await, before);

    let without = Service::start(db).await;
    let refused = started(&without, json!({ "source": "retrieved", "set": set })).await;
    assert_eq!(refused.problem(), (422, "evaluator_missing", vec!["/regularization/source"]));
}

fn config() -> WorkerConfig {
    WorkerConfig { poll: Duration::from_millis(100), ..WorkerConfig::default() }
}

/// Trains two steps with this regularization.
async fn trained(whole: &Whole, regularization: Value) -> Answer {
    let recipe = json!({ "max_train_steps": 2, "instance_batch_size": 1, "class_batch_size": 2 });
    let body = json!({
        "concepts": ["rex"], "recipe": recipe, "regularization": regularization, "seed": 1,
    });
    let training = whole.run("/v1/trainings", body).await;
    assert_eq!(training.text("status"), "succeeded", "{training:?}");
    training
}

async fn delta_digest(whole: &Whole, training: &Answer) -> String {
    whole.service.get(&format!("/v1/deltas/{}", training.text("delta"))).await.text("sha256")
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn every_kind_of_set_trains_to_the_end(db: PgPool) {
    let whole = Whole::start_with(db, config()).await;
    whole.service.concept_with_photos("rex", 4).await;
    let one_caption = uploaded(&whole.service, &["photo of a dog"; 6]).await.text("id");
    let no_captions = uploaded(&whole.service, &[""; 3]).await.text("id");
    let single = uploaded(&whole.service, &["a dog"]).await.text("id");
    let long = "dog ".repeat(300);
    let long = upload(&whole.service, captioned(&[&long, "a dog"])).await.text("id");

    let mut digests = Vec::new();
    for regularization in [
        json!({ "source": "none" }),
        json!({ "source": "set" }),
        json!({ "source": "set", "select": "all", "max_images": 3 }),
        json!({ "source": "set", "set": one_caption }),
        json!({ "source": "set", "set": no_captions, "select": "class_noun" }),
        json!({ "source": "set", "set": single }),
        json!({ "source": "set", "set": long }),
    ] {
        let training = trained(&whole, regularization).await;
        digests.push(delta_digest(&whole, &training).await);
    }

    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 7, "each set makes another delta");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_set_that_was_deleted_still_trains_who_has_named_it(db: PgPool) {
    let mut whole = Whole::start_with(db, config()).await;
    whole.service.concept_with_photos("rex", 4).await;
    let set = uploaded(&whole.service, &["a dog"; 3]).await.text("id");
    whole.kill_worker().await;
    let recipe = json!({ "max_train_steps": 1, "instance_batch_size": 1, "class_batch_size": 1 });
    let regularization = json!({ "source": "set", "set": set });
    let body = json!({ "concepts": ["rex"], "recipe": recipe, "regularization": regularization });
    let training = whole.service.post("/v1/trainings", body).await;

    let delete = whole.service.request(Method::DELETE, &format!("/v1/image-sets/{set}"));
    assert_eq!(whole.service.send(delete).await.status, 200);
    whole.start_worker(config());

    let ended = |status: &str| !["queued", "running"].contains(&status);
    let training = whole.wait(training.header("location"), ended).await;
    assert_eq!(training.text("status"), "succeeded", "{training:?}");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_generated_set_is_made_once_and_used_again(db: PgPool) {
    let whole = Whole::start_with(db, config()).await;
    whole.service.concept_with_photos("rex", 4).await;
    let generated = json!({ "source": "generated", "max_images": 5, "num_inference_steps": 3 });

    let first = trained(&whole, generated.clone()).await;

    let made = &first.body["regularization"]["concepts"][0];
    assert_eq!(made["set"]["image_count"], 5, "{first:?}");
    let digest = made["set"]["digest"].as_str().unwrap();
    let set = whole.service.get(&format!("/v1/image-sets/{digest}")).await;
    assert_eq!(
        (set.text("source"), &set.body["caption_count"]),
        ("generated".to_owned(), &json!(5))
    );
    assert_eq!(set.body["generation"], made["generation"]);
    let images = whole.service.get(&set.text("images_url")).await;
    assert_eq!(images.body["data"][4]["caption"], "photo of a dog");

    // The next training names the set from the start, and learns the same from it.
    let second = whole
        .service
        .post(
            "/v1/trainings",
            json!({
                "concepts": ["rex"], "regularization": generated, "seed": 1,
                "recipe": { "max_train_steps": 2, "instance_batch_size": 1, "class_batch_size": 2 },
            }),
        )
        .await;
    assert_eq!(second.body["regularization"]["concepts"][0]["set"]["digest"], digest);
    let ended = |status: &str| !["queued", "running"].contains(&status);
    let second = whole.wait(second.header("location"), ended).await;
    assert_eq!(delta_digest(&whole, &second).await, delta_digest(&whole, &first).await);

    // What was deleted is made again, to the same bytes.
    let delete =
        whole.service.request(Method::DELETE, &format!("/v1/image-sets/{}", set.text("id")));
    assert_eq!(whole.service.send(delete).await.status, 200);
    let third = trained(&whole, generated).await;
    assert_eq!(third.body["regularization"]["concepts"][0]["set"]["digest"], digest);
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_is_canceled_while_it_generates(db: PgPool) {
    let whole = Whole::start_with(db, config()).await;
    whole.service.concept_with_photos("rex", 4).await;
    let generated = json!({ "source": "generated", "max_images": 1000, "num_inference_steps": 50 });
    let body = json!({ "concepts": ["rex"], "regularization": generated });
    let training = whole.service.post("/v1/trainings", body).await;
    let path = training.header("location").to_owned();
    let generating = whole
        .wait_for(&path, |training| {
            training.body["phase"] == "regularizing" && training.body["progress"]["step"] != 0
        })
        .await;
    assert_eq!(generating.body["progress"]["total_steps"], 50_000, "{generating:?}");

    whole.service.post(&format!("{path}/cancel"), json!({})).await;

    let ended =
        whole.wait(&path, |status| !["queued", "running", "canceling"].contains(&status)).await;
    assert_eq!(ended.text("status"), "canceled");
    assert!(
        whole.service.get("/v1/image-sets").await.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .all(|set| set["source"] != "generated")
    );
    whole.end().await;
}

/// An archive of images of these shades and captions.
fn shaded(images: &[(u8, &str)]) -> Vec<u8> {
    let files = images.iter().flat_map(|(shade, caption)| {
        let image = (format!("{shade}.png"), png(64, 64, *shade));
        [image, (format!("{shade}.txt"), caption.as_bytes().to_vec())]
    });
    let files: Vec<(String, Vec<u8>)> = files.collect();
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    zip(&files)
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn what_is_retrieved_is_all_that_is_trained_with(db: PgPool) {
    let mut whole = Whole::start_with(db, config()).await;
    whole.service = whole.service.evaluating().await;
    whole.service.concept_with_photos("rex", 4).await;
    let (dog, cat) = ("photo of a dog", "a cat in the snow");
    let mixed = upload(&whole.service, shaded(&[(1, dog), (2, cat), (3, dog), (4, "")])).await;
    let dogs = upload(&whole.service, shaded(&[(1, dog), (3, dog)])).await;

    let retrieved = json!({ "source": "retrieved", "set": mixed.text("digest"), "threshold": 1.0 });
    let retrieved = trained(&whole, retrieved).await;
    let whole_set = trained(&whole, json!({ "source": "set", "set": dogs.text("id") })).await;

    assert_eq!(retrieved.body["regularization"]["concepts"][0]["image_count"], 2);
    assert_eq!(delta_digest(&whole, &retrieved).await, delta_digest(&whole, &whole_set).await);
    whole.end().await;
}
