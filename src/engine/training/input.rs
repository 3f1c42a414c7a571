//! What a training learns from.

use std::sync::Arc;

use image::{GrayImage, RgbImage};

use crate::domain::concept::ConceptWords;
use crate::domain::training::TrainingRecipe;
use crate::engine::error::EngineError;

/// What one training learns from: one concept, or several jointly.
pub struct TrainingInput {
    pub concepts: Vec<TrainingConcept>,
    pub recipe: TrainingRecipe,
    pub seed: u64,
    /// Memory for a step in addition to the model's weights, in bytes; the result does not depend on it.
    pub memory_budget: Option<u64>,
}

/// One concept's words and images.
pub struct TrainingConcept {
    pub words: ConceptWords,
    pub images: Vec<RgbImage>,
    /// What is known of the images, in their order; images beyond the end have none.
    pub guides: Vec<Guide>,
    /// May be empty; then the training has no class images.
    pub class_images: Vec<CaptionedImage>,
}

/// What is known of an instance image beside its pixels.
#[derive(Clone, Debug, Default)]
pub struct Guide {
    /// The caption that it is trained with, in place of the recipe's templates.
    pub caption: Option<String>,
    /// Of the image's size: what counts in the loss, from 0 to 255. Without one all of it does.
    pub mask: Option<GrayImage>,
}

/// A class image and the caption that it is trained with.
pub struct CaptionedImage {
    pub image: LazyImage,
    pub caption: String,
}

/// An image that is decoded when it is needed. A set of class images would take many gigabytes if all of it were decoded at
/// once.
#[derive(Clone)]
pub struct LazyImage(Arc<dyn Fn() -> Result<RgbImage, String> + Send + Sync>);

impl LazyImage {
    /// - `decode`: gives the same image each time, or says why it cannot
    pub fn new(decode: impl Fn() -> Result<RgbImage, String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(decode))
    }

    /// The image.
    ///
    /// # Errors
    /// [`EngineError::ClassImage`]
    pub fn decode(&self) -> Result<RgbImage, EngineError> {
        (self.0)().map_err(EngineError::ClassImage)
    }
}

impl From<RgbImage> for LazyImage {
    fn from(image: RgbImage) -> Self {
        Self::new(move || Ok(image.clone()))
    }
}

impl TrainingInput {
    /// The modifier tokens of the concepts that have one, in order: token `i` has the id `vocab_size + i`.
    pub(crate) fn modifier_tokens(&self) -> Vec<&str> {
        let tokens =
            self.concepts.iter().filter_map(|concept| concept.words.modifier_token.as_ref());
        tokens.map(|token| token.as_str()).collect()
    }
}
