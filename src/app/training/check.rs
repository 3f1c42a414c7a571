//! What a training is refused for once its concepts and its recipe are known.

use serde_json::{Map, Value};

use crate::domain::code::Code;
use crate::domain::concept::ModifierToken;
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::model_info::ModelInfo;
use crate::domain::training::TrainingRecipe;
use crate::domain::training::task::{TaskConcept, TrainingTask};

/// Refuses modifier tokens that are not free, and what they cannot start from.
///
/// - `asked`: the fields of the recipe that the request gives
pub(super) fn check_tokens(
    task: &TrainingTask,
    asked: &Map<String, Value>,
    model: &ModelInfo,
) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    let recipe = &task.recipe;
    for (index, concept) in task.concepts.iter().enumerate() {
        let token = concept.words.modifier_token.as_ref();
        if let Err(error) = model.check_modifier_token(token, &format!("/concepts/{index}")) {
            checks.push(error);
        }
    }
    let is_modified = |concept: &&TaskConcept| concept.words.modifier_token.is_some();
    let modifiers = task.concepts.iter().filter(is_modified).count();
    if !recipe.learn.projections() {
        for (index, concept) in task.concepts.iter().enumerate() {
            let pointer = format!("/concepts/{index}");
            checks.require(is_modified(&concept), &pointer, Code::NotApplicable, || {
                format!(
                    "concept `{}` has no modifier token, and nothing else is to be learned: learn key or value as well",
                    concept.handle
                )
            });
        }
    }
    checks.require(
        modifiers == 0 || !recipe.initializer_tokens.is_empty(),
        "/recipe/initializer_tokens",
        Code::InvalidValue,
        || "name at least one entry of the vocabulary for the modifier tokens to start from".into(),
    );
    // Of the preset's, initializers are taken in turn. What the request itself names has to be there.
    for (field, names, used) in [
        ("initializer_tokens", &recipe.initializer_tokens, modifiers),
        (
            "initializer_candidates",
            &recipe.initializer_candidates,
            recipe.initializer_candidates.len(),
        ),
    ] {
        let used = if asked.contains_key(field) { names.len() } else { used };
        for (index, name) in names.iter().enumerate().take(used) {
            let pointer = format!("/recipe/{field}/{index}");
            checks.require(model.has_initializer(name), &pointer, Code::InvalidValue, || {
                format!("`{name}` is not an entry of the base model's vocabulary")
            });
        }
    }
    checks.finish()
}

/// Refuses concepts that no prompt could tell apart.
pub(super) fn check_names(task: &TrainingTask) -> Result<(), Invalid> {
    let mut checks = Checks::default();
    for (index, concept) in task.concepts.iter().enumerate() {
        let twin = task.concepts[..index].iter().find(|other| {
            other.words.modifier_token.is_none()
                && concept.words.modifier_token.is_none()
                && other.words.class_noun == concept.words.class_noun
        });
        if let Some(twin) = twin {
            let detail = format!(
                "`{}` and `{}` both teach the bare noun `{}`, so their captions are the same: give one a modifier token",
                twin.handle, concept.handle, concept.words.class_noun
            );
            checks.push(FieldError::new(
                format!("/concepts/{index}"),
                Code::AmbiguousConcept,
                detail,
            ));
        }
    }
    checks.finish()
}

/// What captions may begin with, and the field that says so; nothing, for one.
fn prefixes(recipe: &TrainingRecipe) -> Vec<(&str, Option<String>)> {
    let mut prefixes = vec![("", None)];
    if recipe.size_augmentation {
        for (field, texts) in
            [("small_prefixes", &recipe.small_prefixes), ("large_prefixes", &recipe.large_prefixes)]
        {
            let of_field = texts.iter().enumerate();
            prefixes
                .extend(of_field.map(|(index, text)| {
                    (text.as_str(), Some(format!("/recipe/{field}/{index}")))
                }));
        }
    }
    prefixes
}

/// Refuses templates and prefixes whose captions would be cut, for any of the concepts.
pub(super) fn check_captions(task: &TrainingTask, model: &ModelInfo) -> Result<(), Invalid> {
    let tokens = modifier_tokens(task);
    let prefixes = prefixes(&task.recipe);
    let mut errors: Vec<FieldError> = Vec::new();
    for concept in &task.concepts {
        for (index, template) in task.recipe.instance_templates.iter().enumerate() {
            let caption = template.replace("{}", &concept.words.in_prompt());
            for (prefix, field) in &prefixes {
                let own = format!("/recipe/instance_templates/{index}");
                let pointer = field.as_ref().unwrap_or(&own);
                let checked = model.check_prompt(&format!("{prefix}{caption}"), &tokens, pointer);
                // A template that is too long by itself is not the prefixes' fault.
                let is_known =
                    |known: &FieldError| known.pointer == *pointer || known.pointer == own;
                if let Err(error) = checked
                    && !errors.iter().any(is_known)
                {
                    errors.push(error);
                }
            }
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Invalid(errors)),
    }
}

/// Refuses captions of photos that would be cut.
pub(super) fn check_photo_captions(task: &TrainingTask, model: &ModelInfo) -> Result<(), Invalid> {
    let tokens = modifier_tokens(task);
    let prefixes = prefixes(&task.recipe);
    let mut checks = Checks::default();
    for (index, concept) in task.concepts.iter().enumerate() {
        let pointer = format!("/concepts/{index}");
        let captions =
            concept.images.iter().filter_map(|image| Some((image, image.caption.as_ref()?)));
        for (image, caption) in captions {
            let checked = prefixes.iter().find_map(|(prefix, _)| {
                model.check_prompt(&format!("{prefix}{caption}"), &tokens, &pointer).err()
            });
            if let Some(error) = checked {
                let detail = format!(
                    "the caption `{caption}` of photo `{}`: {}; change it with PATCH /v1/concepts/{}/images/{}",
                    image.image_id, error.detail, concept.concept_id, image.image_id
                );
                checks.push(FieldError::new(error.pointer, error.code, detail));
            }
        }
    }
    checks.finish()
}

fn modifier_tokens(task: &TrainingTask) -> Vec<ModifierToken> {
    task.concepts.iter().filter_map(|concept| concept.words.modifier_token.clone()).collect()
}
