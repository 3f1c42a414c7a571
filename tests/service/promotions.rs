//! Which delta of a concept is its current one, and the way back.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::domain::id::{ConceptId, DeltaId};
use vstar::domain::promotion::Promoter;

use crate::end_to_end::Whole;
use crate::harness::{DIGEST, Service};

async fn current(service: &Service) -> Value {
    service.get("/v1/concepts/rex").await.body["current_delta"].clone()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_delta_is_promoted_and_rolled_back(db: PgPool) {
    let service = Service::start(db).await;
    let (_, first) = service.trained_concept("rex", DIGEST).await;
    let second = service.train_without_worker("rex", DIGEST).await.to_string();
    let (_, of_other) = service.trained_concept("max", DIGEST).await;
    assert_eq!(current(&service).await, second.as_str());
    let promote = async |delta: &str| {
        service.post("/v1/concepts/rex/promote", json!({ "delta": delta })).await
    };
    let roll_back =
        async || service.send(service.request(Method::POST, "/v1/concepts/rex/rollback")).await;

    let promoted = promote(&first).await;
    assert_eq!(
        (promoted.status, promoted.text("current_delta")),
        (200, first.clone()),
        "{promoted:?}"
    );
    let again = promote(&first).await;
    assert_eq!(again.body["revision"], promoted.body["revision"], "nothing has changed");
    let history = service.get("/v1/concepts/rex/promotions").await;
    let of = |index: usize| &history.body["data"][index];
    let deltas: Vec<&Value> = (0..3).map(|index| &of(index)["delta"]).collect();
    assert_eq!(deltas, [first.as_str(), &second, &first]);
    assert_eq!((&of(0)["promoted_by"], &of(1)["promoted_by"]), (&json!("request"), &json!("job")));

    // Back, step by step, until there is nothing more.
    for expected in [&second, &first] {
        let back = roll_back().await;
        assert_eq!((back.status, &back.text("current_delta")), (200, expected), "{back:?}");
    }
    assert_eq!(roll_back().await.problem(), (409, "no_earlier_delta", vec![""]));
    assert_eq!(current(&service).await, first.as_str());
    let page = service.get("/v1/concepts/rex/promotions?limit=2").await;
    assert_eq!(page.body["has_more"], true);
    assert!(
        page.body["data"].as_array().unwrap().iter().all(|one| one["rolled_back_at"].is_string())
    );
    let after = page.text("next_cursor");
    let last = service.get(&format!("/v1/concepts/rex/promotions?after={after}")).await;
    assert_eq!(last.body["data"][0]["rolled_back_at"], Value::Null, "{last:?}");

    // What is refused changes nothing.
    let before = service.get("/v1/concepts/rex").await.body;
    for (delta, code) in [
        (of_other.as_str(), "delta_of_another_concept"),
        ("dlt_00000000000000000000000000", "unknown_delta"),
        ("rex", "invalid_value"),
    ] {
        assert_eq!(promote(delta).await.problem(), (422, code, vec!["/delta"]), "{delta}");
    }
    let foreign = service.train_without_worker("max", &"b".repeat(64)).await.to_string();
    let refused = service.post("/v1/concepts/max/promote", json!({ "delta": foreign })).await;
    assert_eq!(refused.problem(), (422, "base_model_mismatch", vec!["/delta"]));
    let stale =
        service.request(Method::POST, "/v1/concepts/rex/promote").header("if-match", "\"1\"");
    let stale = service.send(stale.json(&json!({ "delta": second }))).await;
    assert_eq!(stale.problem().0, 412);
    assert_eq!(service.get("/v1/concepts/rex").await.body, before);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn only_the_first_delta_is_promoted_unasked(db: PgPool) {
    let service = Service::start(db.clone()).await;
    let (rex, first) = service.trained_concept("rex", DIGEST).await;
    let max = service.concept_with_photos("max", 4).await;
    let ids = [&rex, &max].map(|id| id.parse::<ConceptId>().unwrap());
    // A joint delta: one of the concepts has a current one, the other has none.
    let joint: DeltaId = service.train_without_worker("max", DIGEST).await;
    sqlx::query("update concept set current_delta_id = null where handle = 'max'")
        .execute(&db)
        .await
        .unwrap();

    vstar::db::promotion::promote(&db, &ids, joint, Promoter::Job, true).await.unwrap();

    assert_eq!(current(&service).await, first.as_str());
    let max = service.get("/v1/concepts/max").await;
    assert_eq!(max.text("current_delta"), joint.to_string());
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_promotes_as_it_was_asked(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    let recipe = json!({ "max_train_steps": 1, "instance_batch_size": 1, "class_batch_size": 0,
        "initializer_candidates": [], "rank": 2 });
    let train = async |promote: Option<&str>| {
        let mut body = json!({ "concepts": ["dog"], "recipe": recipe });
        if let Some(promote) = promote {
            body["promote"] = json!(promote);
        }
        let training = whole.run("/v1/trainings", body).await;
        assert_eq!(training.text("status"), "succeeded", "{training:?}");
        assert_eq!(training.text("promote"), promote.unwrap_or("auto"));
        // The progress of what has ended is whole.
        let progress = &training.body["progress"];
        assert!(progress.is_null() || progress["step"] == progress["total_steps"], "{progress}");
        assert!(training.body["first_step_at"].is_string(), "{training:?}");
        training.text("delta")
    };
    let current =
        async || whole.service.get("/v1/concepts/dog").await.body["current_delta"].clone();

    assert_eq!(train(Some("never")).await.len(), 30);
    assert_eq!(current().await, Value::Null);
    let first = train(None).await;
    assert_eq!(current().await, first.as_str());
    let second = train(None).await;
    assert_eq!(current().await, first.as_str());
    assert_ne!(second, first);
    let third = train(Some("always")).await;
    assert_eq!(current().await, third.as_str());
    whole.end().await;
}
