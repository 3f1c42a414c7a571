//! A training: the numbers by which a concept is learned.

mod learn;
pub mod task;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::code::Code;
use super::invalid::{Checks, FieldError, Invalid};

pub use self::learn::{Learn, MAX_RANK, StartFrom};
pub use super::image_set::ImageSetRef;
pub use super::regularization::ClassImages;

/// How the learning rate changes over a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LrScheduler {
    /// The same in every step: the paper's.
    Constant,
    /// A linear warm-up over the first steps, then a half cosine down to 5 %.
    Cosine,
}

/// Every number of a training, resolved before it is queued. Fields have diffusers' names where it has one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecipe {
    /// The number of training steps.
    pub max_train_steps: usize,
    /// The number of instance images in one step.
    pub instance_batch_size: usize,
    /// The number of class images in one step. 0 trains without class images.
    pub class_batch_size: usize,
    /// The maximum number of class images per concept.
    pub num_class_images: usize,
    /// The absolute learning rate of AdamW for the key and value projections. It is never scaled by batch size or devices.
    pub learning_rate: f64,
    /// The learning rate of a modifier token's embedding row is `learning_rate` times this. The paper's value is 1.
    pub token_learning_rate_factor: f64,
    /// How the learning rate changes over the training. Requests may also call it `learning_rate_schedule`.
    #[serde(alias = "learning_rate_schedule")]
    pub lr_scheduler: LrScheduler,
    /// The number of steps over which the learning rate rises linearly from 0, with the `cosine` scheduler. Requests may also
    /// call it `learning_rate_warmup_steps`.
    #[serde(alias = "learning_rate_warmup_steps")]
    pub lr_warmup_steps: usize,
    /// Weight λ of the class images' mean loss beside that of the instance images. The paper's value is 1.
    pub prior_loss_weight: f64,
    /// AdamW's weight decay. Requests may also call it `adam_weight_decay`, as diffusers does.
    #[serde(alias = "adam_weight_decay")]
    pub weight_decay: f64,
    /// The global norm to which gradients are clipped.
    pub max_grad_norm: f64,
    /// Captions of instance images, in which `{}` stands for the concept: `<rex> dog`. 1 to 32 texts.
    pub instance_templates: Vec<String>,
    /// Whether photos are resized at random, with a caption that says so (section 3.2 of the paper).
    pub size_augmentation: bool,
    /// Caption prefixes of photos that were made smaller.
    pub small_prefixes: Vec<String>,
    /// Caption prefixes of photos that were made larger.
    pub large_prefixes: Vec<String>,
    /// Whether each instance image is mirrored with a probability of one half.
    pub horizontal_flip: bool,
    /// Whether the first token's part is left out of the gradients of keys and values, as in the reference implementations.
    pub detach_first_token: bool,
    /// Vocabulary entries whose embedding rows the concepts' modifier tokens start from, in turn. They should be rare, so that
    /// they bring no meaning of their own. Entries are written as in the vocabulary: `ktn` within a word, `ktn</w>` at the end
    /// of one.
    pub initializer_tokens: Vec<String>,
    /// Vocabulary entries that modify nouns, such as colors. If there are any, a modifier token starts from the one with
    /// which the base model's loss on the concept's photos at high noise is least, instead of from `initializer_tokens`.
    /// Entries are written like those of `initializer_tokens`. The paper has none.
    #[serde(default)]
    pub initializer_candidates: Vec<String>,
    /// Which parts of the concepts are learned. Parts that are not named are learned, and all of them are by default, as in the
    /// paper.
    #[serde(default)]
    pub learn: Learn,
    /// The rank, from 1 to 256, at which the change of each key and value projection is learned: `ΔW = B A`, where `B` starts
    /// at 0 and `A` is random, as in LoRA. Null learns whole matrices, as in the paper.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 256)]
    pub rank: Option<usize>,
}

/// Further names of recipe fields in requests, with the names that answers use.
pub const FIELD_ALIASES: [(&str, &str); 3] = [
    ("learning_rate_schedule", "lr_scheduler"),
    ("learning_rate_warmup_steps", "lr_warmup_steps"),
    ("adam_weight_decay", "weight_decay"),
];

/// Unknown fields of a request that are named before the rest of it is not read any more.
const MAX_UNKNOWN_FIELDS: usize = 8;

/// The recipe's own name of a field that a request names.
fn field_of<'a>(
    name: &'a str,
    known: &Map<String, Value>,
    overrides: &Map<String, Value>,
) -> Result<&'a str, FieldError> {
    let pointer = || format!("/recipe/{name}");
    let alias = FIELD_ALIASES.iter().find(|(alias, _)| *alias == name);
    let field = alias.map_or(name, |(_, field)| *field);
    if alias.is_some() && overrides.contains_key(field) {
        let detail = format!("`{name}` is another name of `{field}`: leave one of them out");
        return Err(FieldError::new(pointer(), Code::ConflictingFields, detail));
    }
    if known.contains_key(field) {
        return Ok(field);
    }
    let names: Vec<String> = known.keys().map(|name| format!("`{name}`")).collect();
    let name: String = name.chars().take(100).collect();
    let detail = format!("unknown field `{name}`, expected one of {}", names.join(", "));
    Err(FieldError::new(pointer(), Code::UnknownField, detail))
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
            lr_scheduler: LrScheduler::Constant,
            lr_warmup_steps: 0,
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
            initializer_candidates: Vec::new(),
            learn: Learn::default(),
            rank: None,
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
    /// - `overrides`: any of the recipe's fields by name
    ///
    /// # Errors
    /// One for every field that no recipe has, that is named twice, or whose value is out of range. Pointers start with
    /// `/recipe/`.
    pub fn with_overrides(self, overrides: &Map<String, Value>) -> Result<Self, Invalid> {
        let mut checks = Checks::default();
        let unchanged = match serde_json::to_value(&self) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) | Err(_) => unreachable!("a recipe is an object of plain numbers and texts"),
        };
        let mut changed = unchanged.clone();
        let mut unknown = 0;
        for (name, value) in overrides {
            match field_of(name, &unchanged, overrides).and_then(|field| {
                // One field at a time, so that the error names it.
                let mut fields = unchanged.clone();
                fields.insert(field.to_owned(), value.clone());
                match serde_json::from_value::<Self>(Value::Object(fields)) {
                    Ok(_) => Ok(field),
                    Err(error) => {
                        let (pointer, code) = (format!("/recipe/{name}"), Code::InvalidValue);
                        Err(FieldError::new(pointer, code, error.to_string()))
                    }
                }
            }) {
                Ok(field) => drop(changed.insert(field.to_owned(), value.clone())),
                Err(error) => {
                    unknown += usize::from(error.code == Code::UnknownField);
                    checks.push(error);
                }
            }
            if unknown == MAX_UNKNOWN_FIELDS {
                break;
            }
        }
        match serde_json::from_value::<Self>(Value::Object(changed)) {
            Ok(recipe) => {
                recipe.check(&mut checks);
                checks.finish()?;
                Ok(recipe)
            }
            Err(error) => {
                checks.push(FieldError::new("/recipe", Code::InvalidValue, error.to_string()));
                Err(checks.finish().err().unwrap_or(Invalid(Vec::new())))
            }
        }
    }

    fn check(&self, checks: &mut Checks) {
        checks.in_range(self.max_train_steps, 1..=100_000, "/recipe/max_train_steps");
        checks.in_range(self.instance_batch_size, 1..=64, "/recipe/instance_batch_size");
        checks.in_range(self.class_batch_size, 0..=64, "/recipe/class_batch_size");
        checks.in_range(self.num_class_images, 0..=100_000, "/recipe/num_class_images");
        checks.positive(self.learning_rate, 1.0, "/recipe/learning_rate");
        checks.in_range(
            self.token_learning_rate_factor,
            0.0..=1_000.0,
            "/recipe/token_learning_rate_factor",
        );
        checks.in_range(self.lr_warmup_steps, 0..=100_000, "/recipe/lr_warmup_steps");
        checks.in_range(self.prior_loss_weight, 0.0..=100.0, "/recipe/prior_loss_weight");
        checks.in_range(self.weight_decay, 0.0..=1.0, "/recipe/weight_decay");
        checks.positive(self.max_grad_norm, 1e6, "/recipe/max_grad_norm");
        self.learn.check(self.rank, checks);

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
            ("initializer_candidates", &self.initializer_candidates),
        ];
        for (name, texts) in texts {
            let is_entries = name.starts_with("initializer_");
            let bracketed = |text: &String| text.contains(['<', '>']) && !is_entries;
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

/// The recipe that a training starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// The base model's own recipe.
    #[default]
    Default,
    /// The numbers of Custom Diffusion, CVPR 2023.
    Paper,
}
