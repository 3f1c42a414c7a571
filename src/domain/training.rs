//! A training: the numbers by which a concept is learnt.

use serde::{Deserialize, Serialize};

/// How the learning rate changes over a training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearningRateSchedule {
    /// The same in every step: the paper's.
    Constant,
    /// A linear warm-up over the first steps, then a half cosine down to 5 %.
    Cosine,
}

/// Every number of a training that is resolved before it is queued; absolute, never scaled by devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
