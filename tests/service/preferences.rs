//! Preference studies: from two evaluations to votes and their interval.

use serde_json::json;
use sqlx::PgPool;

use crate::end_to_end::Whole;
use crate::harness::Service;

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn people_vote_once_per_link_and_pair(db: PgPool) {
    let whole = Whole::start_with_evaluator(db).await;
    let service = &whole.service;
    service.concept_with_photos("rex", 4).await;
    let evaluation = |seed: u64| {
        json!({
            "subjects": [{ "base": true }], "concepts": ["rex"], "seed": seed, "images_per_prompt": 1,
            "prompts": ["photo of a {}", "photo of a {} on the beach", "photo of a tree"], "num_inference_steps": 1,
        })
    };
    let first = whole.run("/v1/evaluations", evaluation(1)).await.text("id");
    let second = whole.run("/v1/evaluations", evaluation(2)).await.text("id");

    let body =
        json!({ "first": { "evaluation": first }, "second": { "evaluation": second }, "links": 2 });
    let study = service.post("/v1/preference-studies", body).await;

    assert_eq!(study.status, 201, "{study:?}");
    assert_eq!(study.body["pair_count"], 2, "the prompts that name the concept");
    let result = &study.body["results"][0];
    assert_eq!(
        (&result["first_share"]["mean"], &result["first_share"]["interval"]),
        (&json!(null), &json!(null))
    );
    let link = study.body["links"][0].as_str().unwrap().to_owned();
    let page = String::from_utf8(service.get(&link).await.bytes).unwrap();
    assert!(
        page.contains("Pair 1 of 2")
            && page.contains("photo of a dog")
            && !page.contains("<script")
    );

    // The first vote counts, and there is a next pair until there is none.
    for (pair, text, image) in [(0, "left", "left"), (0, "right", "right"), (1, "right", "left")] {
        let form = format!("pair={pair}&text={text}&image={image}");
        let answer = service.submit(&link, &form).await;
        assert_eq!((answer.status, answer.header("location")), (303, link.as_str()));
    }
    let page = String::from_utf8(service.get(&link).await.bytes).unwrap();
    assert!(page.contains("Thank you"), "{page}");
    let study = service.get(study.header("location")).await;
    for result in study.body["results"].as_array().unwrap() {
        let votes = ["first_votes", "second_votes"].map(|side| result[side].as_i64().unwrap());
        assert_eq!(votes.iter().sum::<i64>(), 2, "{result}");
        assert!(result["first_share"]["interval"].is_array(), "{result}");
    }

    // What does not fit is refused.
    let side = json!({ "evaluation": study.body["first"]["evaluation"] });
    let twice =
        service.post("/v1/preference-studies", json!({ "first": side, "second": side })).await;
    assert_eq!(twice.problem(), (422, "invalid_value", vec!["/second"]));
    let wrong = service.submit(&link, "pair=2&text=left&image=left").await;
    assert_eq!(wrong.problem(), (422, "out_of_range", vec!["/pair"]));
    let wrong = service.submit(&link, "pair=0&text=left").await;
    assert_eq!(wrong.problem(), (422, "missing_field", vec!["/image"]));
    assert_eq!(service.get("/votes/nobody").await.status, 404);
    assert_eq!(service.get("/votes/%00").await.status, 404);
    whole.end().await;
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_study_needs_evaluations_that_have_succeeded(db: PgPool) {
    let service = Service::with_evaluator(db).await;
    let id = vstar::domain::id::EvaluationId::generate().to_string();

    let body = json!({ "first": { "evaluation": id }, "second": { "evaluation": id } });
    let answer = service.post("/v1/preference-studies", body).await;

    assert_eq!(answer.problem(), (422, "unknown_evaluation", vec!["/first/evaluation"]));
}
