//! `config.json` of a whole CLIP model.

use std::path::Path;

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{text_encoder::ClipTextConfig, vision_encoder::ClipVisionConfig};
use crate::engine::{
    error::{EngineError, Result},
    weights::read_json,
};

/// The end token that configs name which were published before it was read: texts do not end with it.
const LEGACY_END_TOKEN: u32 = 2;

/// A CLIP model's config, with the defaults that transformers has for what is absent.
pub(super) struct ClipConfig {
    pub(super) text: ClipTextConfig,
    pub(super) vision: ClipVisionConfig,
    pub(super) projection_dim: usize,
    /// `text_config.eos_token_id`.
    end_token: Option<u32>,
}

/// Which of a text's tokens has its features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndToken {
    /// The first of those with the highest id.
    Highest,
    /// The first with this id.
    Id(u32),
}

#[derive(Deserialize)]
struct File {
    projection_dim: Option<usize>,
    text_config: Option<Map<String, Value>>,
    text_config_dict: Option<Map<String, Value>>,
    vision_config: Option<Map<String, Value>>,
    vision_config_dict: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct TextConfig {
    #[serde(flatten)]
    encoder: ClipTextConfig,
    eos_token_id: Option<u32>,
}

impl ClipConfig {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`EngineError::ModelFile`] for what is not built here.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let file: File = read_json(path)?;
        let text: TextConfig =
            tower(path, text_defaults(), file.text_config, file.text_config_dict)?;
        let vision: ClipVisionConfig =
            tower(path, vision_defaults(), file.vision_config, file.vision_config_dict)?;
        text.encoder.encoder().check(path)?;
        vision.check(path)?;
        Ok(Self {
            text: text.encoder,
            vision,
            projection_dim: file.projection_dim.unwrap_or(512),
            end_token: text.eos_token_id,
        })
    }

    /// The rule by which transformers finds the end of a text, or the reason why none would be found.
    ///
    /// - `eos_id`: what the tokenizer ends texts with
    pub(super) fn end_token(&self, eos_id: u32) -> Result<EndToken, String> {
        match self.end_token {
            Some(LEGACY_END_TOKEN) => Ok(EndToken::Highest),
            Some(id) if id != eos_id => Err(format!(
                "`eos_token_id` of `text_config` is {id}, but the tokenizer ends texts with {eos_id}"
            )),
            Some(_) | None => Ok(EndToken::Id(eos_id)),
        }
    }
}

impl EndToken {
    /// Where the end is; `None` for a text without one.
    pub(super) fn position(self, ids: &[u32]) -> Option<usize> {
        let id = match self {
            Self::Highest => *ids.iter().max()?,
            Self::Id(id) => id,
        };
        ids.iter().position(|other| *other == id)
    }
}

/// One tower's config: the defaults, and over them the fields of its object.
///
/// Older files have a second object, `text_config_dict`. It stands for the first one as a whole, as in transformers.
fn tower<T: DeserializeOwned>(
    path: &Path,
    defaults: Value,
    fields: Option<Map<String, Value>>,
    older: Option<Map<String, Value>>,
) -> Result<T> {
    let mut config = defaults;
    let fields = older.or(fields).into_iter().flatten();
    fields.filter(|(_, value)| !value.is_null()).for_each(|(name, value)| config[name] = value);
    serde_json::from_value(config).map_err(|error| EngineError::ModelFile {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

fn text_defaults() -> Value {
    json!({
        "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    })
}

fn vision_defaults() -> Value {
    json!({
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_channels": 3, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_text_is_where_transformers_has_it() {
        // Beginning 7, end 8; 9 was added to the vocabulary later.
        let ids = [7, 2, 9, 8, 8, 8];

        assert_eq!(EndToken::Highest.position(&ids), Some(2));
        assert_eq!(EndToken::Id(8).position(&ids), Some(3));
        assert_eq!(EndToken::Id(6).position(&ids), None);
    }
}
