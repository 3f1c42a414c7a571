//! CLIP's text half: prompt to token ids, token ids to features.

mod text_encoder;
mod tokenizer;

pub use text_encoder::{ClipTextConfig, ClipTextEncoder};
pub use tokenizer::{ClipTokenizer, TokenIds};
