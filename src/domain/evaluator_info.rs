//! The CLIP model that evaluates images, as requests and reports name it: names and limits, no weights.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::digest::Digest;

/// The model that the features of images and texts come from. Figures of different evaluators cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EvaluatorInfo {
    /// The name of its folder.
    pub name: String,
    /// The digest of its configs, vocabulary and weights.
    pub digest: Digest,
    /// The width of the features.
    pub projection_dim: usize,
    /// The most tokens of a text, including start and end.
    pub max_text_tokens: usize,
    /// The side of the images as the model sees them, in pixels.
    pub image_size: usize,
    /// Whether the folder says how images are resized, cropped and normalized. If it does not, this is done as OpenAI does,
    /// at the model's image size.
    pub has_image_settings: bool,
}
