//! What recipes accept, and how stored ones are read.

use serde_json::json;

use super::*;

fn errors(overrides: serde_json::Value) -> Vec<(String, Code)> {
    let overrides = overrides.as_object().unwrap();
    let invalid = TrainingRecipe::paper().with_overrides(overrides).unwrap_err();
    invalid.0.into_iter().map(|error| (error.pointer, error.code)).collect()
}

#[test]
fn the_papers_recipe_passes_its_own_checks() {
    assert!(TrainingRecipe::paper().with_overrides(&serde_json::Map::new()).is_ok());
}

#[test]
fn a_range_is_written_so_that_people_can_read_it() {
    for (field, value) in
        [("learning_rate", 0.0), ("learning_rate", 1e300), ("max_grad_norm", -1e-320)]
    {
        let overrides = json!({ field: value });
        let invalid =
            TrainingRecipe::paper().with_overrides(overrides.as_object().unwrap()).unwrap_err();

        let detail = &invalid.0[0].detail;
        assert!(detail.contains("above 0, at most 1") && detail.len() < 60, "{detail}");
    }
}

#[test]
fn overrides_replace_single_numbers() {
    let overrides = json!({ "max_train_steps": 3, "learning_rate": 1 });

    let recipe = TrainingRecipe::paper().with_overrides(overrides.as_object().unwrap()).unwrap();

    assert_eq!((recipe.max_train_steps, recipe.instance_batch_size), (3, 4));
}

#[test]
fn earlier_and_diffusers_names_of_fields_are_accepted_and_answered_by_ours() {
    let overrides = json!({
        "learning_rate_schedule": "cosine", "learning_rate_warmup_steps": 7, "adam_weight_decay": 0.5,
    });

    let recipe = TrainingRecipe::paper().with_overrides(overrides.as_object().unwrap()).unwrap();

    assert_eq!((recipe.lr_scheduler, recipe.lr_warmup_steps), (LrScheduler::Cosine, 7));
    let answer = serde_json::to_value(recipe).unwrap();
    assert_eq!((&answer["lr_scheduler"], &answer["weight_decay"]), (&json!("cosine"), &json!(0.5)));
    assert!(answer.get("learning_rate_schedule").is_none());
}

#[test]
fn a_stored_recipe_reads_by_its_earlier_names_and_never_by_both() {
    let mut stored = serde_json::to_value(TrainingRecipe::paper()).unwrap();
    let fields = stored.as_object_mut().unwrap();
    let warmup = fields.remove("lr_warmup_steps").unwrap();
    fields.insert("learning_rate_warmup_steps".to_owned(), warmup);
    assert_eq!(
        serde_json::from_value::<TrainingRecipe>(stored.clone()).unwrap(),
        TrainingRecipe::paper()
    );

    stored["lr_warmup_steps"] = json!(3);
    let error = serde_json::from_value::<TrainingRecipe>(stored).unwrap_err();
    assert!(error.to_string().contains("lr_warmup_steps"), "{error}");
}

#[test]
fn a_stored_recipe_without_candidates_has_none() {
    let mut stored = serde_json::to_value(TrainingRecipe::paper()).unwrap();
    stored.as_object_mut().unwrap().remove("initializer_candidates").unwrap();

    assert_eq!(serde_json::from_value::<TrainingRecipe>(stored).unwrap(), TrainingRecipe::paper());
}

#[test]
fn a_stored_recipe_of_an_earlier_version_learns_everything_as_whole_matrices() {
    let mut stored = serde_json::to_value(TrainingRecipe::paper()).unwrap();
    let fields = stored.as_object_mut().unwrap();
    fields.remove("learn").unwrap();
    fields.remove("rank").unwrap();

    assert_eq!(serde_json::from_value::<TrainingRecipe>(stored).unwrap(), TrainingRecipe::paper());
}

#[test]
fn parts_that_are_not_named_are_learned() {
    let overrides = json!({ "learn": { "key": false }, "rank": 4 });

    let recipe = TrainingRecipe::paper().with_overrides(overrides.as_object().unwrap()).unwrap();

    assert_eq!(recipe.learn, Learn { key: false, value: true, modifier_token: true });
    assert_eq!(recipe.rank, Some(4));
}

#[test]
fn what_a_training_learns_is_checked() {
    let token_alone = json!({ "key": false, "value": false });
    let nothing = json!({ "key": false, "value": false, "modifier_token": false });
    for (overrides, pointer, code) in [
        (json!({ "learn": nothing }), "/recipe/learn", Code::InvalidValue),
        (json!({ "learn": nothing, "rank": 4 }), "/recipe/learn", Code::InvalidValue),
        (json!({ "learn": { "query": true } }), "/recipe/learn", Code::InvalidValue),
        (json!({ "learn": token_alone, "rank": 4 }), "/recipe/rank", Code::NotApplicable),
        (json!({ "rank": 0 }), "/recipe/rank", Code::OutOfRange),
        (json!({ "rank": 257 }), "/recipe/rank", Code::OutOfRange),
    ] {
        assert_eq!(errors(overrides.clone()), [(pointer.to_owned(), code)], "{overrides}");
    }
    let overrides = json!({ "learn": token_alone });
    assert!(TrainingRecipe::paper().with_overrides(overrides.as_object().unwrap()).is_ok());
}

#[test]
fn candidates_are_entries_of_a_vocabulary_and_at_most_32() {
    let overrides = json!({ "initializer_candidates": ["red</w>", "striped"] });
    let recipe = TrainingRecipe::paper().with_overrides(overrides.as_object().unwrap());
    assert_eq!(recipe.unwrap().initializer_candidates, ["red</w>", "striped"]);

    assert_eq!(
        errors(json!({ "initializer_candidates": vec!["red</w>"; 33] })),
        [("/recipe/initializer_candidates".to_owned(), Code::InvalidValue)]
    );
}

#[test]
fn a_field_named_by_both_of_its_names_is_an_error() {
    assert_eq!(
        errors(json!({ "lr_scheduler": "cosine", "learning_rate_schedule": "cosine" })),
        [("/recipe/learning_rate_schedule".to_owned(), Code::ConflictingFields)]
    );
}

#[test]
fn every_wrong_override_is_named() {
    let found = errors(json!({
        "max_train_steps": 0, "lr": 1e-5, "learning_rate": "fast", "prior_loss_weight": -1,
        "instance_templates": ["a dog"],
    }));

    for expected in [
        ("/recipe/max_train_steps", Code::OutOfRange),
        ("/recipe/lr", Code::UnknownField),
        ("/recipe/learning_rate", Code::InvalidValue),
        ("/recipe/prior_loss_weight", Code::OutOfRange),
        ("/recipe/instance_templates/0", Code::InvalidValue),
    ] {
        assert!(found.contains(&(expected.0.to_owned(), expected.1)), "{expected:?} in {found:?}");
    }
    assert_eq!(found.len(), 5, "{found:?}");
}

/// The recipe of a request may have very many fields, and very long ones.
#[test]
fn overrides_cost_their_own_length() {
    let mut overrides = serde_json::Map::new();
    overrides.insert("initializer_tokens".to_owned(), json!(vec!["a"; 100_000]));
    for index in 0..40_000 {
        overrides.insert(format!("x{index:05}"), json!(0));
    }
    let began = std::time::Instant::now();

    let invalid = TrainingRecipe::paper().with_overrides(&overrides).unwrap_err();

    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    assert!((2..=32).contains(&invalid.0.len()), "{} errors", invalid.0.len());
    let unknown = invalid.0.iter().find(|error| error.code == Code::UnknownField).unwrap();
    assert!(unknown.detail.contains("`x0") && unknown.detail.contains("`max_train_steps`"));
}
