//! A training: the numbers by which a concept is learnt.

use serde::{Deserialize, Serialize};

use super::code::Code;
use super::concept::{ConceptWords, Handle};
use super::id::{ConceptId, ImageId};
use super::invalid::{Checks, FieldError, Invalid};

/// How the learning rate changes over a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LearningRateSchedule {
    /// The same in every step: the paper's.
    Constant,
    /// A linear warm-up over the first steps, then a half cosine down to 5 %.
    Cosine,
}

/// Every number of a training that is resolved before it is queued; absolute, never scaled by devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecipe {
    pub max_train_steps: usize,
    /// Rows with instance images in one step.
    pub instance_batch_size: usize,
    /// Rows with class images in one step; 0 trains without class images.
    pub class_batch_size: usize,
    /// At most so many class images per concept are used.
    pub num_class_images: usize,
    /// Absolute AdamW rate for the key and value projections.
    pub learning_rate: f64,
    /// The modifier row's rate is `learning_rate` times this; 1 is the paper's.
    pub token_learning_rate_factor: f64,
    pub learning_rate_schedule: LearningRateSchedule,
    pub learning_rate_warmup_steps: usize,
    /// λ: weight of the class rows' mean loss beside the instance rows'; 1 is the paper's.
    pub prior_loss_weight: f64,
    pub weight_decay: f64,
    /// Global norm at which gradients are clipped.
    pub max_grad_norm: f64,
    /// Captions of instance images; `{}` becomes `<modifier> noun`.
    pub instance_templates: Vec<String>,
    /// Resizes photos and says so in the caption (paper §3.2).
    pub size_augmentation: bool,
    /// Caption prefixes of photos that were shrunk, and of photos that were enlarged.
    pub small_prefixes: Vec<String>,
    pub large_prefixes: Vec<String>,
    /// Mirrors each drawn instance image with probability one half.
    pub horizontal_flip: bool,
    /// Keeps the first token's outer product out of the K/V gradients (reference implementations' stop-gradient).
    pub detach_first_token: bool,
    /// Entries of the vocabulary whose rows the concepts' modifier rows start from, in turn; rare ones, so that
    /// they bring no meaning of their own. Raw entries: `ktn` is a piece within a word, `ktn</w>` a whole word.
    pub initializer_tokens: Vec<String>,
}

impl TrainingRecipe {
    /// Preset `paper`: Custom Diffusion, CVPR 2023, for one concept.
    pub fn paper() -> Self {
        Self {
            max_train_steps: 250,
            instance_batch_size: 4,
            class_batch_size: 4,
            num_class_images: 200,
            learning_rate: 8e-5,
            token_learning_rate_factor: 1.0,
            learning_rate_schedule: LearningRateSchedule::Constant,
            learning_rate_warmup_steps: 0,
            prior_loss_weight: 1.0,
            weight_decay: 1e-2,
            max_grad_norm: 1.0,
            instance_templates: vec!["photo of a {}".into()],
            size_augmentation: true,
            small_prefixes: vec!["a far away ".into(), "very small ".into()],
            large_prefixes: vec!["zoomed in ".into(), "close up ".into()],
            horizontal_flip: true,
            detach_first_token: true,
            initializer_tokens: vec!["ktn".into(), "pll".into(), "ucd".into()],
        }
    }

    /// The same recipe for `concepts` concepts trained jointly: that many times the steps, as in the paper.
    pub fn for_concepts(self, concepts: usize) -> Self {
        Self { max_train_steps: self.max_train_steps * concepts.max(1), ..self }
    }
}

/// The paper's lower limit.
pub const MIN_IMAGES: usize = 4;

/// Concepts that one training can teach jointly.
pub const MAX_CONCEPTS: usize = 8;

impl TrainingRecipe {
    /// The recipe with some of its fields replaced, then checked.
    ///
    /// `overrides` has any of the recipe's fields by name; a field that no recipe has is an error, and so is a
    /// value that makes no sense. Pointers in errors start with `/recipe/`.
    pub fn with_overrides(
        self,
        overrides: &serde_json::Map<String, serde_json::Value>,
    ) -> Result<Self, Invalid> {
        let to_fields = |recipe: &Self| match serde_json::to_value(recipe) {
            Ok(serde_json::Value::Object(fields)) => fields,
            Ok(_) | Err(_) => unreachable!("a recipe is an object of plain numbers and texts"),
        };
        let mut checks = Checks::default();
        let mut recipe = self;
        for (name, value) in overrides {
            let mut fields = to_fields(&recipe);
            let known = fields.insert(name.clone(), value.clone()).is_some();
            // One field at a time, so that the error names it.
            match serde_json::from_value(serde_json::Value::Object(fields)) {
                Ok(changed) => recipe = changed,
                Err(error) => {
                    let code = if known { Code::InvalidValue } else { Code::UnknownField };
                    checks.push(FieldError::new(
                        format!("/recipe/{name}"),
                        code,
                        error.to_string(),
                    ));
                }
            }
        }
        recipe.check(&mut checks);
        checks.finish()?;
        Ok(recipe)
    }

    fn check(&self, checks: &mut Checks) {
        checks.in_range(self.max_train_steps, 1..=100_000, "/recipe/max_train_steps");
        checks.in_range(self.instance_batch_size, 1..=64, "/recipe/instance_batch_size");
        checks.in_range(self.class_batch_size, 0..=64, "/recipe/class_batch_size");
        checks.in_range(self.num_class_images, 0..=100_000, "/recipe/num_class_images");
        checks.in_range(self.learning_rate, f64::MIN_POSITIVE..=1.0, "/recipe/learning_rate");
        checks.in_range(
            self.token_learning_rate_factor,
            0.0..=1_000.0,
            "/recipe/token_learning_rate_factor",
        );
        checks.in_range(
            self.learning_rate_warmup_steps,
            0..=100_000,
            "/recipe/learning_rate_warmup_steps",
        );
        checks.in_range(self.prior_loss_weight, 0.0..=100.0, "/recipe/prior_loss_weight");
        checks.in_range(self.weight_decay, 0.0..=1.0, "/recipe/weight_decay");
        checks.in_range(self.max_grad_norm, f64::MIN_POSITIVE..=1e6, "/recipe/max_grad_norm");

        let templates = &self.instance_templates;
        checks.in_range(templates.len(), 1..=32, "/recipe/instance_templates");
        for (index, template) in templates.iter().enumerate() {
            checks.require(
                template.matches("{}").count() == 1,
                &format!("/recipe/instance_templates/{index}"),
                Code::InvalidValue,
                || format!("`{template}` needs the place of the concept, {{}}, once"),
            );
        }
        let texts = [
            ("instance_templates", templates),
            ("small_prefixes", &self.small_prefixes),
            ("large_prefixes", &self.large_prefixes),
            ("initializer_tokens", &self.initializer_tokens),
        ];
        for (name, texts) in texts {
            let bracketed =
                |text: &String| text.contains(['<', '>']) && name != "initializer_tokens";
            let fits = texts.len() <= 32
                && texts
                    .iter()
                    .all(|text| text.len() <= 200 && !text.contains('\0') && !bracketed(text));
            checks.require(fits, &format!("/recipe/{name}"), Code::InvalidValue, || {
                "at most 32 texts of 200 bytes, without < and >".to_owned()
            });
        }
    }
}

/// Which class images (the paper's regularization images) a training uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassImages {
    /// From the base model's captioned folder those whose caption has the class noun; all of them where it has
    /// none of that noun.
    #[default]
    Auto,
    /// None: faster, but the class noun drifts towards the concept (the paper's figure 8).
    None,
}

/// Where a training's recipe starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The base model's own recipe.
    #[default]
    Default,
    /// The numbers of Custom Diffusion, CVPR 2023.
    Paper,
}

/// Learn these concepts from these photos by this recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingTask {
    /// Refuses a worker that has another base model.
    pub base_digest: String,
    pub concepts: Vec<TaskConcept>,
    pub preset: Preset,
    pub recipe: TrainingRecipe,
    pub class_images: ClassImages,
    pub seed: u64,
}

/// A concept as it was when its training was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskConcept {
    pub concept_id: ConceptId,
    pub handle: Handle,
    #[serde(flatten)]
    pub words: ConceptWords,
    pub images: Vec<TaskImage>,
}

/// A photo of a training and where it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskImage {
    pub image_id: ImageId,
    pub storage_key: String,
}

#[cfg(test)]
mod tests {
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
    fn overrides_replace_single_numbers() {
        let overrides = json!({ "max_train_steps": 3, "learning_rate": 1 });

        let recipe =
            TrainingRecipe::paper().with_overrides(overrides.as_object().unwrap()).unwrap();

        assert_eq!((recipe.max_train_steps, recipe.instance_batch_size), (3, 4));
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
            assert!(
                found.contains(&(expected.0.to_owned(), expected.1)),
                "{expected:?} in {found:?}"
            );
        }
        assert_eq!(found.len(), 5, "{found:?}");
    }
}
