//! What requests are accepted with although their results may suffer from it.

use serde_json::{Value, json};
use sqlx::PgPool;

use crate::harness::{Answer, DIGEST, Service, png};

/// The codes of an answer's warnings, each with its pointer.
fn warned(answer: &Answer) -> Vec<(String, String)> {
    let text = |warning: &Value, name: &str| warning[name].as_str().unwrap().to_owned();
    let warnings = answer.body["warnings"].as_array().unwrap_or_else(|| panic!("{answer:?}"));
    warnings.iter().map(|warning| (text(warning, "code"), text(warning, "pointer"))).collect()
}

fn one(code: &str, pointer: &str) -> Vec<(String, String)> {
    vec![(code.to_owned(), pointer.to_owned())]
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_concept_that_a_prompt_names_without_its_token_is_pointed_out(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;
    service.concept_with_photos("max", 4).await; // not trained, so nobody can mean it
    let gate = service.concept("moon-gate", None, "stone gate").await;
    let photos = (0..4).map(|shade| ("photo.png", png(64, 48, shade))).collect();
    service.upload(&format!("/v1/concepts/{gate}/images"), photos).await;
    service.train_without_worker("moon-gate", DIGEST).await;
    let sample = async |body: Value| {
        let answer = service.post("/v1/samples", body.clone()).await;
        assert_eq!(answer.status, 202, "{body}: {answer:?}");
        answer
    };

    for prompt in [
        "rex on the beach",
        "Rex's bed",
        "photo of a dog",
        "a Stone  gate",
        "the moon gate",
        "moon-gate",
    ] {
        let answer = sample(json!({ "prompt": prompt })).await;
        assert_eq!(warned(&answer), one("concept_not_applied", "/prompt"), "{prompt}");
    }
    for prompt in ["photo of a <rex> dog", "a cat", "dogs", "max on the beach", "a gate, stone"] {
        assert_eq!(warned(&sample(json!({ "prompt": prompt })).await), [], "{prompt}");
    }
    let told = sample(json!({ "prompt": "rex on the beach" })).await;
    let detail = told.body["warnings"][0]["detail"].as_str().unwrap();
    assert!(detail.contains("`<rex> dog`"), "{detail}");
    let later = service.get(told.header("location")).await;
    assert_eq!(later.body["warnings"], told.body["warnings"]);
    let list = service.get("/v1/samples?limit=1").await;
    assert_eq!(list.body["data"][0]["warnings"], told.body["warnings"]);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn settings_that_change_nothing_or_are_far_off_are_pointed_out(db: PgPool) {
    let service = Service::start(db).await;
    service.trained_concept("rex", DIGEST).await;

    for (more, code, pointer) in [
        (json!({ "guidance_scale": 90 }), "value_unusual", "/guidance_scale"),
        (json!({ "num_inference_steps": 2 }), "value_unusual", "/num_inference_steps"),
        (json!({ "width": 256 }), "size_unusual", "/width"),
        (json!({ "height": 32 }), "size_unusual", "/height"),
        (json!({ "scheduler": "euler", "eta": 0.5 }), "field_ignored", "/eta"),
        (
            json!({ "guidance_scale": 1, "negative_prompt": "blurry" }),
            "field_ignored",
            "/negative_prompt",
        ),
        (
            json!({ "guidance_scale": 1, "guidance_interval": [0, 0.5] }),
            "field_ignored",
            "/guidance_interval",
        ),
        (json!({ "preview_every": 900 }), "field_ignored", "/preview_every"),
        (json!({ "prompt": "a (cat:1.4)" }), "weights_ignored", "/prompt"),
        (json!({ "prompt": "a < rex > dog" }), "unknown_token", "/prompt"),
        (json!({ "concepts": [{ "concept": "rex" }] }), "concept_not_named", "/prompt"),
        (
            json!({ "prompt": "a <rex> dog", "concepts": [{ "concept": "rex", "strength": 0 }] }),
            "field_ignored",
            "/concepts/0/strength",
        ),
    ] {
        let mut body = json!({ "prompt": "a cat" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = service.post("/v1/samples", body).await;
        assert_eq!(answer.status, 202, "{more}: {answer:?}");
        let warned = warned(&answer);
        let expected = one(code, pointer).remove(0);
        assert!(warned.contains(&expected), "{more}: {warned:?}");
    }
    let plain =
        json!({ "prompt": "a cat", "num_inference_steps": 30, "guidance_scale": 5, "width": 72 });
    assert_eq!(warned(&service.post("/v1/samples", plain).await), []);
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn a_training_with_few_photos_or_a_strange_recipe_says_so(db: PgPool) {
    let service = Service::start(db).await;
    service.concept_with_photos("few", 4).await;
    service.concept_with_photos("rex", 6).await;
    let training = async |body: Value| {
        let answer = service.post("/v1/trainings", body.clone()).await;
        assert_eq!(answer.status, 202, "{body}: {answer:?}");
        answer
    };

    // What the photos themselves give reason to say is tested with the photos.
    const OF_RECIPES: [&str; 4] =
        ["few_photos", "value_unusual", "identical_texts", "field_ignored"];
    let warned = |answer: &Answer| {
        let mut warned = warned(answer);
        warned.retain(|(code, _)| OF_RECIPES.contains(&code.as_str()));
        warned
    };
    assert_eq!(
        warned(&training(json!({ "concepts": ["few"] })).await),
        one("few_photos", "/concepts/0")
    );
    assert_eq!(warned(&training(json!({ "concepts": ["rex"] })).await), []);
    for (recipe, code, pointer) in [
        (json!({ "learning_rate": 1.0 }), "value_unusual", "/recipe/learning_rate"),
        (json!({ "max_train_steps": 5 }), "value_unusual", "/recipe/max_train_steps"),
        (
            json!({ "instance_templates": ["a {}", "A  {}"] }),
            "identical_texts",
            "/recipe/instance_templates/1",
        ),
        (
            json!({ "class_batch_size": 0, "prior_loss_weight": 0.5 }),
            "field_ignored",
            "/recipe/prior_loss_weight",
        ),
    ] {
        let answer = training(json!({ "concepts": ["rex"], "recipe": recipe })).await;
        assert_eq!(warned(&answer), one(code, pointer), "{recipe}");
        assert_eq!(
            service.get(answer.header("location")).await.body["warnings"],
            answer.body["warnings"]
        );
    }
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn merges_and_compressions_warn_as_well(db: PgPool) {
    let service = Service::start(db).await;
    let (_, rex) = service.trained_concept("rex", DIGEST).await;
    service.trained_concept("max", DIGEST).await;
    let mut captions: Vec<String> = (0..25).map(|index| format!("photo number {index}")).collect();
    captions.push("Photo number 3".to_owned());
    let both = json!([{ "concept": "rex" }, { "concept": "max", "strength": 0 }]);

    let merge = service.post("/v1/merges", json!({ "concepts": both, "captions": captions })).await;
    assert_eq!(merge.status, 202, "{merge:?}");
    assert_eq!(
        warned(&merge),
        [one("field_ignored", "/concepts/1/strength"), one("identical_texts", "/captions/25")]
            .concat()
    );
    let compress = format!("/v1/deltas/{rex}/compress");
    let all = service.post(&compress, json!({ "energy": 1 })).await;
    assert_eq!(warned(&all), one("field_ignored", "/energy"));
    assert_eq!(warned(&service.post(&compress, json!({ "rank": 4 })).await), []);

    let alike = json!({ "concepts": both, "captions": vec!["a dog"; 50] });
    let alike = service.post("/v1/merges", alike).await;
    assert_eq!(alike.problem(), (422, "invalid_value", vec!["/captions"]));
}

#[sqlx::test(migrator = "vstar::db::MIGRATOR")]
async fn the_concepts_place_in_a_prompt_of_an_evaluation_is_no_weight(db: PgPool) {
    let service = Service::with_evaluator(db).await;
    service.trained_concept("rex", DIGEST).await;
    let body = json!({
        "subjects": [{ "concepts": [{ "concept": "rex" }] }],
        "prompts": ["photo of a {}", "a {} of ((gold))"],
        "dry_run": true,
    });

    let mut warned = warned(&service.post("/v1/evaluations", body).await);

    warned.retain(|(code, _)| code == "weights_ignored");
    assert_eq!(warned, one("weights_ignored", "/prompts/1"));
}
