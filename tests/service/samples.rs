//! Samples as requests: how prompts find their concepts, and what is refused.

use serde_json::json;
use sqlx::PgPool;

use crate::harness::{DIGEST, Service};

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_prompt_finds_its_concept_by_its_modifier_token(db: PgPool) {
    let service = Service::start(db).await;
    let (_, delta) = service.trained_concept("rex", DIGEST).await;

    let sample =
        service.post("/v1/samples", json!({ "prompt": "photo of a <rex> dog", "n": 2 })).await;

    assert_eq!(sample.status, 202, "{sample:?}");
    assert_eq!(sample.body["deltas"], json!([{ "delta": delta, "strength": 1.0 }]));
    assert_eq!(sample.body["n"], 2);
    assert_eq!(sample.body["num_inference_steps"], 50);
    assert_eq!(sample.body["scheduler"], "ddim");
    assert_eq!(sample.body["width"], 64);
    assert!(sample.body["seed"].as_u64().is_some());
    assert_eq!(sample.body["images"], json!([]));
    assert_eq!(service.get(sample.header("location")).await.body, sample.body);
    assert_eq!(service.get("/v1/samples").await.body["data"][0]["id"], sample.body["id"]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_list_entry_fixes_delta_and_strength(db: PgPool) {
    let service = Service::start(db).await;
    let (id, first) = service.trained_concept("rex", DIGEST).await;

    let by_handle =
        json!({ "prompt": "<rex> dog", "concepts": [{ "concept": "rex", "strength": 0.5 }] });
    let by_id = json!({ "prompt": "a dog", "concepts": [{ "concept": id, "delta": first }] });
    let by_delta =
        json!({ "prompt": "<rex> dog", "concepts": [{ "delta": first, "strength": 0 }] });

    for (body, strength) in [(by_handle, 0.5), (by_id, 1.0), (by_delta, 0.0)] {
        let sample = service.post("/v1/samples", body).await;
        assert_eq!(sample.status, 202, "{sample:?}");
        assert_eq!(sample.body["deltas"], json!([{ "delta": first, "strength": strength }]));
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_prompt_without_concepts_is_the_base_model(db: PgPool) {
    let service = Service::start(db).await;

    let sample = service.post("/v1/samples", json!({ "prompt": "a dog, 3 < 4", "seed": 0 })).await;

    assert_eq!((sample.status, &sample.body["deltas"]), (202, &json!([])), "{sample:?}");
    assert_eq!(sample.body["seed"], 0);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_sample_that_cannot_be_drawn_changes_nothing(db: PgPool) {
    let service = Service::start(db).await;
    let (_, rex) = service.trained_concept("rex", DIGEST).await;
    let (_, other) = service.trained_concept("old", "another base model").await;
    service.concept_with_photos("new", 4).await;
    let before = service.contents().await;

    let long = "a dog on the beach ".repeat(20);
    for (body, code, pointer) in [
        (json!({ "prompt": "a <nobody> dog" }), "unknown_concept", "/prompt"),
        (json!({ "prompt": "a <Rex> dog" }), "unknown_concept", "/prompt"),
        (
            json!({ "prompt": "a dog", "negative_prompt": "a <nobody> dog" }),
            "unknown_concept",
            "/negative_prompt",
        ),
        (json!({ "prompt": "a <new> dog" }), "concept_not_trained", "/prompt"),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "new" }] }),
            "concept_not_trained",
            "/concepts/0",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "nobody" }] }),
            "unknown_concept",
            "/concepts/0/concept",
        ),
        (json!({ "prompt": "a dog", "concepts": [{}] }), "missing_field", "/concepts/0"),
        (json!({ "prompt": "a <old> dog" }), "base_model_mismatch", "/prompt"),
        (
            json!({ "prompt": "a dog", "concepts": [{ "delta": other }] }),
            "base_model_mismatch",
            "/concepts/0",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "new", "delta": rex }] }),
            "delta_of_another_concept",
            "/concepts/0/delta",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "delta": "dlt_00000000000000000000000000" }] }),
            "unknown_delta",
            "/concepts/0/delta",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "rex", "strength": 3 }] }),
            "out_of_range",
            "/concepts/0/strength",
        ),
        (
            json!({ "prompt": "a dog", "concepts": [{ "concept": "rex" }, { "concept": "rex", "strength": 0.5 }] }),
            "ambiguous_strength",
            "/concepts/1",
        ),
        (json!({ "prompt": "a dog\0" }), "invalid_value", "/prompt"),
        (json!({ "prompt": "x".repeat(100_000) }), "prompt_too_long", "/prompt"),
        (json!({ "prompt": long }), "prompt_too_long", "/prompt"),
        (
            json!({ "prompt": "a dog", "negative_prompt": long }),
            "prompt_too_long",
            "/negative_prompt",
        ),
        (
            json!({ "prompt": "a dog", "num_inference_steps": 0 }),
            "out_of_range",
            "/num_inference_steps",
        ),
        (
            json!({ "prompt": "a dog", "num_inference_steps": 1001 }),
            "out_of_range",
            "/num_inference_steps",
        ),
        (json!({ "prompt": "a dog", "n": 0 }), "out_of_range", "/n"),
        (json!({ "prompt": "a dog", "n": 17 }), "out_of_range", "/n"),
        (json!({ "prompt": "a dog", "width": 63 }), "not_a_multiple", "/width"),
        (json!({ "prompt": "a dog", "height": 4096 }), "out_of_range", "/height"),
        (json!({ "prompt": "a dog", "guidance_scale": -1 }), "out_of_range", "/guidance_scale"),
        (json!({ "prompt": "a dog", "eta": 2 }), "out_of_range", "/eta"),
        (json!({ "prompt": "a dog", "scheduler": "magic" }), "invalid_value", "/scheduler"),
        (json!({ "prompt": "a dog", "cfg_scale": 7 }), "unknown_field", "/cfg_scale"),
        (json!({ "n": 1 }), "missing_field", "/prompt"),
    ] {
        let answer = service.post("/v1/samples", body.clone()).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]), "{body}");
    }
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_modifier_token_counts_as_one_token(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("a-very-long-name-of-a-dog", DIGEST).await;

    // 2 marks and 30 words are 32, the tiny model's limit; spelled out, the token alone would be a dozen.
    let prompt = format!("<a-very-long-name-of-a-dog>{}", " dog".repeat(29));
    let fits = service.post("/v1/samples", json!({ "prompt": prompt })).await;
    let over = service.post("/v1/samples", json!({ "prompt": format!("{prompt} dog") })).await;

    assert_eq!(fits.status, 202, "{fits:?}");
    assert_eq!(over.problem(), (422, "prompt_too_long", vec!["/prompt"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_wait_that_runs_out_is_answered_like_no_wait(db: PgPool) {
    let service = Service::start(db).await;

    let request =
        service.request(reqwest::Method::POST, "/v1/samples").json(&json!({ "prompt": "a dog" }));
    let sample = service.send(request.header("prefer", "wait=1")).await;

    assert_eq!((sample.status, sample.text("status").as_str()), (202, "queued"), "{sample:?}");
}
