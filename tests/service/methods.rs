//! The paper's methods through the API: parts that are learned, low ranks, compression, and trainings on top of a delta.

use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::engine::{Delta, DeltaWeights};

use crate::end_to_end::Whole;
use crate::harness::{Answer, DIGEST, Service};

/// A short training with these fields of the recipe.
async fn train(whole: &Whole, concept: &str, recipe: Value, start_from: Option<&str>) -> Answer {
    let mut fields = json!({
        "max_train_steps": 2, "instance_batch_size": 1, "class_batch_size": 0, "initializer_candidates": [],
    });
    fields.as_object_mut().unwrap().extend(recipe.as_object().unwrap().clone());
    let body =
        json!({ "concepts": [concept], "recipe": fields, "start_from": start_from, "seed": 1 });
    let training = whole.run("/v1/trainings", body).await;
    assert_eq!(training.text("status"), "succeeded", "{training:?}");
    training
}

async fn file(whole: &Whole, delta: &str, format: &str) -> Vec<u8> {
    let path = format!("/v1/deltas/{delta}/content?format={format}");
    let answer = whole.service.get(&path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.bytes
}

async fn image(whole: &Whole, prompt: &str, delta: Option<&str>) -> Vec<u8> {
    let concepts: Vec<Value> = delta.into_iter().map(|delta| json!({ "delta": delta })).collect();
    let body = json!({
        "prompt": prompt, "concepts": concepts, "num_inference_steps": 1, "negative_prompt": "blurry", "seed": 5,
    });
    let png = whole.images(body).await.remove(0);
    image::load_from_memory(&png).unwrap().to_rgb8().into_raw()
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_learns_the_parts_that_it_is_asked_for(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.concept("vase", Some("<blue>")).await;
    let token_alone = json!({ "learn": { "key": false, "value": false } });

    let token = train(&whole, "dog", token_alone.clone(), None).await;
    let keys = train(&whole, "vase", json!({ "learn": { "value": false } }), None).await;

    let learn = json!({ "key": false, "value": false, "modifier_token": true });
    assert_eq!(token.body["recipe"]["learn"], learn);
    assert_eq!(token.body["recipe"]["rank"], Value::Null);
    assert_eq!(token.body["report"]["weight_change"], json!([]));
    let changed = keys.body["report"]["weight_change"].as_array().unwrap();
    assert!(changed.iter().all(|one| one["weight"].as_str().unwrap().contains("to_k")));
    let (token, keys) = (token.text("delta"), keys.text("delta"));
    let token_file = file(&whole, &token, "native").await;
    assert!(token_file.len() < 4096, "{}", token_file.len());
    let dense = Delta::from_safetensors(&file(&whole, &keys, "dense").await).unwrap();
    assert!(dense.weights.names().iter().all(|name| name.contains("to_k")));

    // A token alone changes prompts that name it, and leaves others to the base model.
    assert_ne!(
        image(&whole, "a <rex> dog", Some(&token)).await,
        image(&whole, "a dog", None).await
    );
    assert_eq!(image(&whole, "a dog", Some(&token)).await, image(&whole, "a dog", None).await);
    // Both can be checked and merged like any other delta.
    let concepts = json!([{ "delta": token }, { "delta": keys }]);
    let check = whole.service.post("/v1/merges/check", json!({ "concepts": concepts })).await;
    assert_eq!(check.status, 200, "{check:?}");
    let merge = whole.run("/v1/merges", json!({ "concepts": concepts })).await;
    assert_eq!(merge.text("status"), "succeeded", "{merge:?}");
    image(&whole, "a <rex> dog next to a <blue> vase", Some(&merge.text("delta"))).await;
    image(&whole, "a <rex> dog next to a <blue> vase", None).await;

    // Nothing to learn, and nothing to compress.
    whole.concept("gate", None).await;
    let body = json!({ "concepts": ["gate"], "recipe": token_alone });
    let refused = whole.service.post("/v1/trainings", body).await;
    assert_eq!(refused.problem(), (422, "not_applicable", vec!["/concepts/0"]));
    let failed = whole.run(&format!("/v1/deltas/{token}/compress"), json!({ "rank": 1 })).await;
    assert_eq!(failed.body["error"]["code"], "invalid_input", "{failed:?}");
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_delta_is_compressed_and_used_at_once(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    let training = train(&whole, "dog", json!({}), None).await;
    let source = training.text("delta");
    let compress = async |body: Value| {
        let ended = whole.run(&format!("/v1/deltas/{source}/compress"), body).await;
        assert_eq!(ended.text("status"), "succeeded", "{ended:?}");
        ended
    };

    let (one, most) =
        (compress(json!({ "rank": 1 })).await, compress(json!({ "rank": 1024 })).await);
    let share = compress(json!({ "energy": 0.6, "make_current": true })).await;

    assert_eq!((&one.body["source"], &one.body["energy"]), (&json!(source), &Value::Null));
    assert_eq!(one.body["concepts"][0], training.body["concepts"][0]["id"]);
    let number = |answer: &Answer, name: &str| answer.body["report"][name].as_f64().unwrap();
    let matrices = one.body["report"]["matrices"].as_array().unwrap();
    assert!(matrices.iter().all(|matrix| matrix["rank"] == 1));
    assert!(number(&one, "error") > number(&share, "error"));
    assert!(number(&most, "error") < 1e-9 && number(&most, "kept_energy") >= 1.0);
    assert!(number(&share, "kept_energy") >= 0.6);
    let delta = whole.service.get(&format!("/v1/deltas/{}", one.text("delta"))).await;
    assert_eq!(delta.body["made_by"], one.body["urls"]["self"]);
    assert_eq!(one.body["report"]["size_bytes"], delta.body["size_bytes"]);
    assert!(number(&one, "size_bytes") < number(&one, "source_size_bytes") / 5.0);
    let native =
        Delta::from_safetensors(&file(&whole, &one.text("delta"), "native").await).unwrap();
    assert!(matches!(native.weights, DeltaWeights::Factorized(_)));

    // Only the last one was made the concept's own.
    let concept = whole.service.get("/v1/concepts/dog").await;
    assert_eq!(concept.body["current_delta"], share.body["delta"]);
    // All singular values give the matrices of the source, but for rounding.
    let whole_again = Delta::from_safetensors(&file(&whole, &most.text("delta"), "dense").await);
    let before = Delta::from_safetensors(&file(&whole, &source, "dense").await).unwrap();
    let (DeltaWeights::Dense(after), DeltaWeights::Dense(before)) =
        (whole_again.unwrap().weights, before.weights)
    else {
        panic!("dense files are dense")
    };
    for (name, matrix) in before {
        let difference = (&after[&name] - &matrix).unwrap().abs().unwrap().max_all().unwrap();
        assert!(difference.to_scalar::<f32>().unwrap() < 2e-3, "{name}");
    }
    for delta in [&one, &share, &most] {
        image(&whole, "a <rex> dog", Some(&delta.text("delta"))).await;
    }
    let list = whole.service.get("/v1/compressions").await;
    assert_eq!(list.body["data"][0]["id"], share.body["id"]);
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_compression_that_makes_no_sense_changes_nothing(db: PgPool) {
    let service = Service::start(db).await;
    let (_, rex) = service.trained_concept("rex", DIGEST).await;
    let (_, old) = service.trained_concept("old", "another base model").await;
    let before = service.contents().await;

    for (delta, body, code, pointer) in [
        (&rex, json!({}), "missing_field", "/rank"),
        (&rex, json!({ "rank": 4, "energy": 0.5 }), "conflicting_fields", "/energy"),
        (&rex, json!({ "rank": 0 }), "out_of_range", "/rank"),
        (&rex, json!({ "energy": 1.1 }), "out_of_range", "/energy"),
        (&rex, json!({ "ratio": 2 }), "unknown_field", "/ratio"),
        (&old, json!({ "rank": 4 }), "base_model_mismatch", "delta_id"),
    ] {
        let answer = service.post(&format!("/v1/deltas/{delta}/compress"), body.clone()).await;
        assert_eq!(answer.problem(), (422, code, vec![pointer]), "{body}");
    }
    let nothing = "/v1/deltas/dlt_00000000000000000000000000/compress";
    let answer = service.post(nothing, json!({ "rank": 4 })).await;
    assert_eq!(answer.problem(), (404, "not_found", vec![]));
    assert_eq!(service.contents().await, before);

    let queued = service.post(&format!("/v1/deltas/{rex}/compress"), json!({ "rank": 4 })).await;
    assert_eq!((queued.status, queued.text("status")), (202, "queued".to_owned()));
    let canceled = service.post(queued.body["urls"]["cancel"].as_str().unwrap(), json!({})).await;
    assert_eq!((canceled.status, canceled.text("status")), (200, "canceled".to_owned()));
    let events = service.get(queued.body["urls"]["events"].as_str().unwrap()).await;
    assert!(String::from_utf8(events.bytes).unwrap().contains("job.terminal"));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_goes_on_from_a_delta(db: PgPool) {
    let whole = Whole::start(db).await;
    whole.concept("dog", Some("<rex>")).await;
    whole.concept("vase", Some("<blue>")).await;
    let first = train(&whole, "dog", json!({ "rank": 2 }), None).await;
    let dog = first.text("delta");

    let second = train(&whole, "vase", json!({ "rank": 2 }), Some(&dog)).await;

    assert_eq!(second.body["start_from"], dog.as_str());
    let delta = second.text("delta");
    let body = whole.service.get(&format!("/v1/deltas/{delta}")).await;
    let handles: Vec<&Value> =
        body.body["concepts"].as_array().unwrap().iter().map(|one| &one["handle"]).collect();
    assert_eq!(handles, ["dog", "vase"]);
    // The first concept keeps its own delta, the second has the new one.
    for (concept, current) in [("dog", &dog), ("vase", &delta)] {
        let concept = whole.service.get(&format!("/v1/concepts/{concept}")).await;
        assert_eq!(concept.text("current_delta"), **current);
    }
    let read =
        async |delta: &str| Delta::from_safetensors(&file(&whole, delta, "native").await).unwrap();
    let (old, new) = (read(&dog).await, read(&delta).await);
    assert_eq!(new.concepts[0], old.concepts[0]);
    let DeltaWeights::Factorized(factors) = &new.weights else { panic!("factors") };
    assert!(factors.values().all(|one| one.p.dim(0).unwrap() == 4));
    image(&whole, "a <rex> dog next to a <blue> vase", Some(&delta)).await;
    assert_ne!(
        image(&whole, "a <rex> dog", Some(&delta)).await,
        image(&whole, "a <rex> dog", Some(&dog)).await
    );
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_goes_on_only_from_a_delta_that_fits(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("max", 4).await;
    let (_, old) = service.trained_concept("old", "another base model").await;
    for handle in ["red", "blue"] {
        service.concept(handle, None, "gate").await;
        let files = (0..4).map(|shade| ("photo.png", crate::harness::png(64, 64, shade)));
        service.upload(&format!("/v1/concepts/{handle}/images"), files.collect()).await;
    }
    let red = service.train_without_worker("red", DIGEST).await.to_string();
    let before = service.contents().await;

    for (concept, delta, code) in [
        ("max", "dlt_00000000000000000000000000", "unknown_delta"),
        ("max", old.as_str(), "base_model_mismatch"),
        ("blue", red.as_str(), "ambiguous_concept"),
    ] {
        let body = json!({ "concepts": [concept], "start_from": delta });
        let answer = service.post("/v1/trainings", body).await;
        assert_eq!(answer.problem(), (422, code, vec!["/start_from"]), "{concept}");
    }
    assert_eq!(service.contents().await, before);
    let again = json!({ "concepts": ["red"], "start_from": red });
    let again = service.post("/v1/trainings", again).await;
    assert_eq!((again.status, &again.body["start_from"]), (202, &json!(red)));
}
