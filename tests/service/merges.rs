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
