//! Merges as requests.

use serde_json::json;
use sqlx::PgPool;

use crate::harness::{DIGEST, Service, png};

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_merge_names_what_it_merges(db: PgPool) {
    let service = Service::start(db).await;
    let (rex_id, rex) = service.trained_concept("rex", DIGEST).await;
    let (max_id, max) = service.trained_concept("max", DIGEST).await;

    let body = json!({ "concepts": [{ "concept": "rex" }, { "delta": max, "strength": 0.5 }] });
    let merge = service.post("/v1/merges", body).await;

    assert_eq!(merge.status, 202, "{merge:?}");
    assert_eq!(
        merge.body["deltas"],
        json!([{ "delta": rex, "strength": 1.0 }, { "delta": max, "strength": 0.5 }])
    );
    assert_eq!(merge.body["concepts"], json!([rex_id, max_id]));
    assert_eq!(service.get(merge.header("location")).await.body, merge.body);
    assert_eq!(service.get("/v1/merges").await.body["data"][0]["id"], merge.body["id"]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_merge_needs_two_deltas_of_this_base_model(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;
    service.trained_concept("old", "another base model").await;
    let before = service.contents().await;

    for (concepts, code, pointer) in [
        (json!([]), "too_few_deltas", "/concepts"),
        (json!([{ "concept": "rex" }]), "too_few_deltas", "/concepts"),
        (json!([{ "concept": "rex" }, { "concept": "rex" }]), "too_few_deltas", "/concepts"),
        (json!([{ "concept": "rex" }, { "concept": "old" }]), "base_model_mismatch", "/concepts/1"),
        (
            json!([{ "concept": "rex" }, { "concept": "nobody" }]),
            "unknown_concept",
            "/concepts/1/concept",
        ),
    ] {
        let answer = service.post("/v1/merges", json!({ "concepts": concepts })).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]), "{concepts}");
    }
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn concepts_that_no_prompt_could_tell_apart_are_not_combined(db: PgPool) {
    let service = Service::start(db).await;
    for handle in ["red", "blue"] {
        service.concept(handle, None, "gate").await;
        let files = (0..4).map(|shade| ("photo.png", png(64, 64, shade))).collect();
        service.upload(&format!("/v1/concepts/{handle}/images"), files).await;
        service.train_without_worker(handle, DIGEST).await;
    }

    let body = json!({ "concepts": [{ "concept": "red" }, { "concept": "blue" }] });
    let merge = service.post("/v1/merges", body).await;

    assert_eq!(merge.problem(), (422, "ambiguous_concept", vec!["/concepts/1"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_merge_says_how_it_is_done_with_every_default_filled_in(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;
    service.trained_concept("max", DIGEST).await;
    let concepts = json!([{ "concept": "rex" }, { "concept": "max" }]);

    let usual = service.post("/v1/merges", json!({ "concepts": concepts })).await;
    let hard = json!({ "concepts": concepts, "method": "hard", "protect": [] });
    let hard = service.post("/v1/merges", hard).await;

    assert_eq!((usual.status, hard.status), (202, 202), "{usual:?} {hard:?}");
    for (name, value) in [
        ("method", json!("soft")),
        ("constraint_weight", json!(1000.0)),
        ("captions", json!(null)),
        ("protect", json!(["empty_prompt", "class_nouns"])),
    ] {
        assert_eq!(usual.body[name], value, "{name}");
    }
    assert_eq!((&hard.body["method"], &hard.body["protect"]), (&json!("hard"), &json!([])));
    assert_eq!(hard.body.get("constraint_weight"), None, "hard constraints have no weight");
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn options_that_make_no_sense_are_refused_field_by_field(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;
    service.trained_concept("max", DIGEST).await;
    let before = service.contents().await;
    let captions = |caption: &str| {
        let mut captions = vec!["a dog"; 20];
        captions[7] = caption;
        json!({ "captions": captions })
    };
    let long = "a ".repeat(40);

    for (options, code, pointer) in [
        (json!({ "method": "firm" }), "invalid_value", "/method"),
        (json!({ "constraint_weight": 0 }), "out_of_range", "/constraint_weight"),
        (json!({ "constraint_weight": 1e9 }), "out_of_range", "/constraint_weight"),
        (
            json!({ "method": "hard", "constraint_weight": 10 }),
            "not_applicable",
            "/constraint_weight",
        ),
        (json!({ "captions": ["a dog"] }), "out_of_range", "/captions"),
        (captions(" "), "invalid_value", "/captions/7"),
        (captions("a <rex> dog"), "invalid_value", "/captions/7"),
        (captions(&long), "prompt_too_long", "/captions/7"),
        (json!({ "protect": ["everything"] }), "invalid_value", "/protect/0"),
        (json!({ "protect": ["class_nouns", "class_nouns"] }), "invalid_value", "/protect"),
        (json!({ "protect": vec!["empty_prompt"; 50_000] }), "invalid_value", "/protect"),
        (captions(&"dog ".repeat(70_000)), "out_of_range", "/captions"),
        (json!({ "weight": 3 }), "unknown_field", "/weight"),
    ] {
        let mut body = json!({ "concepts": [{ "concept": "rex" }, { "concept": "max" }] });
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        for path in ["/v1/merges", "/v1/merges/check"] {
            let answer = service.post(path, body.clone()).await;
            assert_eq!(answer.problem(), (422, code, vec![pointer]), "{path} {options}");
        }
        let sample = json!({ "prompt": "a <rex> dog and a <max> dog", "merge": options });
        let answer = service.post("/v1/samples", sample).await;
        let pointer = format!("/merge{pointer}");
        assert_eq!(answer.problem(), (422, code, vec![pointer.as_str()]), "samples {options}");
    }
    let alone = json!({ "prompt": "a <rex> dog", "merge": { "method": "soft" } });
    let alone = service.post("/v1/samples", alone).await;
    assert_eq!(alone.problem(), (422, "not_applicable", vec!["/merge"]));
    assert_eq!(service.contents().await, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_check_refuses_what_it_cannot_know(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;
    service.trained_concept("max", DIGEST).await;
    let old = service.trained_concept("old", "another base model").await.1;

    let one = json!({ "concepts": [{ "concept": "rex" }] });
    let one = service.post("/v1/merges/check", one).await;
    let both = json!({ "concepts": [{ "concept": "rex" }, { "concept": "max" }] });
    let both = service.post("/v1/merges/check", both).await;
    let dense = service.get(&format!("/v1/deltas/{old}/content?format=dense")).await;
    let other = service.get(&format!("/v1/deltas/{old}/content?format=lora")).await;

    assert_eq!(one.problem(), (422, "too_few_deltas", vec!["/concepts"]));
    assert_eq!(both.problem(), (409, "captions_not_encoded", vec!["/captions"]));
    assert_eq!(dense.problem(), (409, "base_model_mismatch", vec!["format"]));
    assert_eq!(other.problem(), (422, "invalid_value", vec!["format"]));
}
