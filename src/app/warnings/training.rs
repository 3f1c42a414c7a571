//! What a training is likely to suffer from.

use serde_json::{Map, Value};

use super::{FAR, far_from_usual, of_repeated};
use crate::domain::code::Code;
use crate::domain::regularization::Regularization;
use crate::domain::training::task::TrainingTask;
use crate::domain::training::{MIN_IMAGES, TrainingRecipe};
use crate::domain::warning::Warning;

/// As few photos as are worth a word. The paper's concepts have four to ten.
const FEW_PHOTOS: usize = MIN_IMAGES;

/// Warns of photos that are few, and of numbers that are far from the preset's.
///
/// - `asked`: the fields of the recipe that the request gives
/// - `usual`: the preset for this number of concepts
pub(in crate::app) fn of_training(
    task: &TrainingTask,
    asked: &Map<String, Value>,
    usual: &TrainingRecipe,
) -> Vec<Warning> {
    let mut warnings = of_photos(task);
    let recipe = &task.recipe;
    let numbers = [
        (
            "learning_rate",
            recipe.learning_rate,
            usual.learning_rate,
            FAR,
            "a larger one may ruin the model's other words, and a smaller one teaches nothing",
        ),
        (
            "max_train_steps",
            recipe.max_train_steps as f64,
            usual.max_train_steps as f64,
            FAR,
            "fewer teach little, and many more make images that only repeat the photos",
        ),
        (
            "token_learning_rate_factor",
            recipe.token_learning_rate_factor,
            usual.token_learning_rate_factor,
            FAR,
            "the modifier token may learn nothing, or become noise",
        ),
        (
            "prior_loss_weight",
            recipe.prior_loss_weight,
            usual.prior_loss_weight,
            FAR,
            "other things of the class drift towards the concept, or the concept is not learned",
        ),
    ];
    for (name, value, usual, times, why) in numbers {
        if asked.contains_key(name) {
            warnings.extend(far_from_usual(value, usual, times, &format!("/recipe/{name}"), why));
        }
    }
    warnings.extend(ignored(task, asked));
    for (name, texts) in [
        ("instance_templates", &recipe.instance_templates),
        ("small_prefixes", &recipe.small_prefixes),
        ("large_prefixes", &recipe.large_prefixes),
        ("initializer_candidates", &recipe.initializer_candidates),
    ] {
        if asked.contains_key(name) {
            warnings.extend(of_repeated(texts, &format!("/recipe/{name}")));
        }
    }
    warnings
}

fn of_photos(task: &TrainingTask) -> Vec<Warning> {
    let few = task.concepts.iter().enumerate().filter(|(_, one)| one.images.len() <= FEW_PHOTOS);
    let warning = |(index, concept): (usize, &crate::domain::training::task::TaskConcept)| {
        let detail = format!(
            "concept `{}` has {} photos: five to ten, with different backgrounds, give images that do not only repeat them",
            concept.handle,
            concept.images.len()
        );
        Warning::new(Code::FewPhotos, format!("/concepts/{index}"), detail)
    };
    few.map(warning).collect()
}

/// Fields that the request gives and that change nothing beside the others.
fn ignored(task: &TrainingTask, asked: &Map<String, Value>) -> Vec<Warning> {
    let recipe = &task.recipe;
    let has_class_images =
        task.regularization != Regularization::None && recipe.class_batch_size > 0;
    let has_tokens = task.concepts.iter().any(|one| one.words.modifier_token.is_some());
    let no_class_images = "the training has no class images, so this changes nothing";
    let no_sizes = "size_augmentation is off, so this changes nothing";
    let no_tokens = "no concept has a modifier token, so this changes nothing";
    let rules = [
        ("prior_loss_weight", !has_class_images, no_class_images),
        ("num_class_images", !has_class_images, no_class_images),
        ("small_prefixes", !recipe.size_augmentation, no_sizes),
        ("large_prefixes", !recipe.size_augmentation, no_sizes),
        ("initializer_tokens", !has_tokens, no_tokens),
        ("initializer_candidates", !has_tokens, no_tokens),
        ("token_learning_rate_factor", !has_tokens, no_tokens),
        (
            "initializer_tokens",
            has_tokens && !recipe.initializer_candidates.is_empty(),
            "the recipe has initializer_candidates, which go first: give `initializer_candidates: []` as well",
        ),
        (
            "lr_warmup_steps",
            recipe.lr_scheduler == crate::domain::training::LrScheduler::Constant,
            "only the lr_scheduler `cosine` warms up, so this changes nothing",
        ),
    ];
    let given =
        rules.into_iter().filter(|(name, is_ignored, _)| *is_ignored && asked.contains_key(*name));
    given
        .map(|(name, _, detail)| {
            Warning::new(Code::FieldIgnored, format!("/recipe/{name}"), detail)
        })
        .collect()
}
