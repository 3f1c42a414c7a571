//! The base model that is served, as requests are checked against it: names and limits, no weights.

use super::base_model::SamplingDefaults;
use super::code::Code;
use super::concept::ModifierToken;
use super::digest::Digest;
use super::invalid::FieldError;
use super::scheduler::SchedulerName;
use super::training::{ImageSetRef, TrainingRecipe};

/// Counts the tokens of a prompt with its begin and end, where each given modifier token is one.
pub type CountTokens = Box<dyn Fn(&str, &[&str]) -> usize + Send + Sync>;

/// Returns why a scheduler cannot take this number of steps, if it cannot.
pub type CheckSteps = Box<dyn Fn(SchedulerName, usize) -> Result<(), String> + Send + Sync>;

/// Returns whether the vocabulary has a token, as it is written there.
pub type HasToken = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// Returns the bytes that a training of a recipe needs at least, beside the base model's weights.
pub type TrainingMemory = Box<dyn Fn(&TrainingRecipe) -> u64 + Send + Sync>;

/// A scheduler that the base model can be sampled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerLimit {
    pub name: SchedulerName,
    /// The most steps that it can take.
    pub max_steps: usize,
}

/// More than any model's token limit has room for; longer texts are not even counted.
const MAX_PROMPT_BYTES: usize = 8 * 1024;

/// What the service knows about its base model without its weights.
pub struct ModelInfo {
    pub name: String,
    /// The digest of configs and weights: which deltas fit.
    pub digest: Digest,
    /// Width and height of a sample are multiples of this.
    pub size_multiple: usize,
    /// The side that the model was trained on, in pixels; the default width and height.
    pub native_size: usize,
    /// Tokens that fit into a prompt, with begin and end.
    pub max_prompt_tokens: usize,
    /// Noise levels that the model was trained on: the most steps that a sample can have.
    pub num_train_timesteps: usize,
    pub schedulers: Vec<SchedulerLimit>,
    /// The default recipe of one concept; see [`TrainingRecipe::for_concepts`].
    pub recipe: TrainingRecipe,
    pub sampling: SamplingDefaults,
    /// Whether there is a folder of class images.
    pub has_class_images: bool,
    /// The images of that folder, as trainings name them; `None` without a folder.
    pub class_image_set: Option<ImageSetRef>,
    pub count_tokens: CountTokens,
    pub check_steps: CheckSteps,
    pub has_token: HasToken,
    pub training_memory: TrainingMemory,
}

impl ModelInfo {
    /// The longest side of a sample.
    pub fn max_size(&self) -> usize {
        4 * self.native_size
    }

    /// Refuses a modifier token that the vocabulary has as a token of its own: it would keep the row that it has there.
    pub fn check_modifier_token(
        &self,
        token: Option<&ModifierToken>,
        pointer: &str,
    ) -> Result<(), FieldError> {
        match token {
            Some(token) if (self.has_token)(token.as_str()) => {
                let detail = format!(
                    "the base model's vocabulary has `{token}` as a token of its own: choose another modifier token"
                );
                Err(FieldError::new(pointer, Code::InvalidValue, detail))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether a modifier token can start from this entry of the vocabulary, or from this whole word.
    pub fn has_initializer(&self, name: &str) -> bool {
        (self.has_token)(name) || (self.has_token)(&format!("{name}</w>"))
    }

    /// The number of tokens of a text, with begin and end.
    pub fn prompt_tokens(&self, text: &str, modifier_tokens: &[ModifierToken]) -> usize {
        let added: Vec<&str> = modifier_tokens.iter().map(ModifierToken::as_str).collect();
        (self.count_tokens)(text, &added)
    }

    /// Refuses a text that would be cut, since that would silently drop words.
    pub fn check_prompt(
        &self,
        text: &str,
        modifier_tokens: &[ModifierToken],
        pointer: &str,
    ) -> Result<(), FieldError> {
        check_text(text, pointer)?;
        let tokens = self.prompt_tokens(text, modifier_tokens);
        if tokens <= self.max_prompt_tokens {
            return Ok(());
        }
        let detail = format!(
            "{tokens} tokens with begin and end, and {} fit: shorten the text",
            self.max_prompt_tokens
        );
        Err(FieldError::new(pointer, Code::PromptTooLong, detail))
    }
}

/// Refuses a text that is too long for any model, or that the catalog cannot keep. To be called before anything is looked
/// for in the text.
pub fn check_text(text: &str, pointer: &str) -> Result<(), FieldError> {
    if text.len() > MAX_PROMPT_BYTES {
        let detail = format!("the text has more than {MAX_PROMPT_BYTES} bytes: shorten it");
        return Err(FieldError::new(pointer, Code::PromptTooLong, detail));
    }
    if text.contains('\0') {
        let detail = "a text cannot contain the character U+0000: leave it out";
        return Err(FieldError::new(pointer, Code::InvalidValue, detail));
    }
    Ok(())
}

impl std::fmt::Debug for ModelInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelInfo")
            .field("name", &self.name)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}
