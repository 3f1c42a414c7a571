//! CLIP: the text encoder that a Stable Diffusion reads prompts with, and the whole model that compares images and texts.

mod config;
mod encoder;
mod image_processor;
mod model;
mod resize;
mod text_encoder;
mod tokenizer;
mod vision_encoder;

pub use image_processor::{ClipImageProcessor, ClipImageProcessorConfig};
pub use model::Clip;
pub use text_encoder::{ClipTextConfig, ClipTextEncoder};
pub use tokenizer::{ClipTokenizer, TokenIds};
pub use vision_encoder::{ClipVisionConfig, ClipVisionEncoder};
