//! How a request wants its deltas merged: parsed once, for samples, merges and checks.

use std::collections::HashSet;

use serde::Deserialize;
use utoipa::ToSchema;

use crate::domain::code::Code;
use crate::domain::concept::modifier_tokens_in;
use crate::domain::invalid::{Checks, FieldError, Invalid};
use crate::domain::merge::{
    CAPTIONS, CONSTRAINT_WEIGHTS, Constraint, MAX_CAPTIONS_BYTES, MergeRecipe, Protected,
};
use crate::domain::model_info::{ModelInfo, check_text};
use crate::domain::number::decimal;

/// How deltas are merged. Every field is optional.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeOptions {
    /// How firmly each concept is preserved. Defaults to `soft`, with which contradicting concepts each give way a little.
    pub method: Option<MergeMethod>,
    /// Weight μ of the soft constraints, from 0.1 to 100 000 000. Defaults to 1000. A larger weight preserves each concept
    /// more closely and changes other prompts more.
    #[schema(minimum = 0.1, maximum = 100_000_000, default = 1000.0)]
    pub constraint_weight: Option<f64>,
    /// 20 to 2000 ordinary prompts whose images should not change. They should cover the whole range of prompts. Defaults to
    /// the captions of the base model's class images.
    #[schema(min_items = 20, max_items = 2000)]
    pub captions: Option<Vec<String>>,
    /// Which texts keep exactly the keys and values of the base model. Defaults to all kinds under soft constraints, and to none
    /// under hard ones, as in the paper: there, protected texts can turn images into noise.
    pub protect: Option<Vec<Protected>>,
}

/// How firmly a merge preserves the keys and values of each concept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MergeMethod {
    /// Approximately: contradicting concepts each give way a little.
    Soft,
    /// Exactly, as in the paper: at each concept's name and the end token after it.
    Hard,
}

/// The options that would give a recipe. The recipe of a manifest is checked by them, under the same rules as a
/// request.
impl From<MergeRecipe> for MergeOptions {
    fn from(recipe: MergeRecipe) -> Self {
        let (method, constraint_weight) = match recipe.constraint {
            Constraint::Soft { constraint_weight } => (MergeMethod::Soft, Some(constraint_weight)),
            Constraint::Hard => (MergeMethod::Hard, None),
        };
        Self {
            method: Some(method),
            constraint_weight,
            captions: recipe.captions,
            protect: Some(recipe.protect),
        }
    }
}

impl MergeOptions {
    /// Fills in the defaults.
    ///
    /// - `pointer`: where the options stand in the body
    pub fn recipe(self, model: &ModelInfo, pointer: &str) -> Result<MergeRecipe, Invalid> {
        let mut checks = Checks::default();
        let constraint = match (self.method, self.constraint_weight) {
            (None | Some(MergeMethod::Soft), None) => Constraint::DEFAULT,
            (None | Some(MergeMethod::Soft), Some(constraint_weight)) => {
                let constraint_weight = decimal(constraint_weight);
                let pointer = format!("{pointer}/constraint_weight");
                checks.in_range(constraint_weight, CONSTRAINT_WEIGHTS, &pointer);
                Constraint::Soft { constraint_weight }
            }
            (Some(MergeMethod::Hard), given) => {
                let pointer = format!("{pointer}/constraint_weight");
                checks.require(given.is_none(), &pointer, Code::NotApplicable, || {
                    "hard constraints have no weight: leave it out, or ask for the method `soft`"
                        .to_owned()
                });
                Constraint::Hard
            }
        };
        let captions_pointer = format!("{pointer}/captions");
        match &self.captions {
            None => checks.require(
                model.has_class_images,
                &captions_pointer,
                Code::MissingField,
                || {
                    format!(
                        "`{}` has no class images whose captions a merge could keep: give captions",
                        model.name
                    )
                },
            ),
            Some(captions) => check_captions(model, captions, &captions_pointer, &mut checks),
        }
        if let Some(protect) = &self.protect {
            let is_repeated = |(index, kind): (usize, &Protected)| protect[..index].contains(kind);
            // Two kinds: in the first three, one is there twice.
            let repeated = protect.iter().take(3).enumerate().any(is_repeated);
            let pointer = format!("{pointer}/protect");
            checks.require(!repeated, &pointer, Code::InvalidValue, || {
                "a kind of text is named twice: name each once".to_owned()
            });
        }
        checks.finish()?;
        Ok(MergeRecipe {
            constraint,
            captions: self.captions,
            protect: self.protect.unwrap_or_else(|| Protected::by_default(constraint)),
        })
    }
}

fn check_captions(model: &ModelInfo, captions: &[String], pointer: &str, checks: &mut Checks) {
    if !CAPTIONS.contains(&captions.len()) {
        return checks.in_range(captions.len(), CAPTIONS, pointer);
    }
    let size_bytes: usize = captions.iter().map(String::len).sum();
    if size_bytes > MAX_CAPTIONS_BYTES {
        let detail = format!(
            "the captions have {size_bytes} bytes together, and {MAX_CAPTIONS_BYTES} are taken: shorten them, or leave some out"
        );
        return checks.push(FieldError::new(pointer, Code::OutOfRange, detail));
    }
    for (index, caption) in captions.iter().enumerate() {
        if let Err(error) = check_caption(model, caption, &format!("{pointer}/{index}")) {
            return checks.push(error); // one is telling enough
        }
    }
    let mut different: HashSet<String> = HashSet::new();
    let is_new = |caption: &&String| {
        let words: Vec<String> = caption.split_whitespace().map(str::to_lowercase).collect();
        different.insert(words.join(" "))
    };
    let count = captions.iter().filter(is_new).count();
    checks.require(count >= *CAPTIONS.start(), pointer, Code::InvalidValue, || {
        format!(
            "only {count} of the captions are different, and a merge needs {}: write more different ones",
            CAPTIONS.start()
        )
    });
}

fn check_caption(model: &ModelInfo, caption: &str, pointer: &str) -> Result<(), FieldError> {
    check_text(caption, pointer)?;
    if caption.trim().is_empty() {
        return Err(FieldError::new(
            pointer,
            Code::InvalidValue,
            "a caption has at least one word",
        ));
    }
    if !modifier_tokens_in(caption).is_ok_and(|tokens| tokens.is_empty()) {
        let detail = "captions are ordinary prompts: leave modifier tokens out";
        return Err(FieldError::new(pointer, Code::InvalidValue, detail));
    }
    model.check_prompt(caption, &[], pointer)
}
