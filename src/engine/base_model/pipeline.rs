//! `model_index.json`: whether a folder is a Stable Diffusion in the sense of this engine.

use std::path::Path;

use serde_json::Value;

use crate::engine::error::{EngineError, Result};
use crate::engine::schedulers::is_supported;
use crate::engine::weights::read_json;

/// The parts that are read, and the classes of each.
const PARTS: [(&str, &[&str]); 4] = [
    ("text_encoder", &["CLIPTextModel", "CLIPTextModelWithProjection"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("unet", &["UNet2DConditionModel"]),
    ("vae", &["AutoencoderKL"]),
];
/// Parts without which a pipeline of another kind makes no images.
const OTHER_PARTS: [&str; 4] = ["text_encoder_2", "text_encoder_3", "transformer", "prior"];

/// Refuses a folder whose index names parts that are not built here. A folder without an index is taken as it is.
///
/// # Errors
/// [`EngineError::ModelFile`], which names the part and its class.
pub(super) fn check_index(dir: &Path) -> Result<()> {
    let path = dir.join("model_index.json");
    if !path.is_file() {
        return Ok(());
    }
    let index: Value = read_json(&path)?;
    let refused = |reason: String| {
        let pipeline = index["_class_name"].as_str().unwrap_or("the pipeline");
        let reason = format!("{pipeline} is not supported: {reason}");
        Err(EngineError::ModelFile { path: path.display().to_string(), reason })
    };
    for (part, classes) in PARTS {
        if let Some(class) = class_of(&index, part)
            && !classes.contains(&class.strip_prefix("Flax").unwrap_or(class))
        {
            return refused(format!("its {part} is a {class}, not a {}", classes[0]));
        }
    }
    if let Some(class) = class_of(&index, "scheduler")
        && !is_supported(class)
    {
        return refused(format!("its scheduler is a {class}, which has no schedule of betas"));
    }
    match OTHER_PARTS.iter().find(|part| class_of(&index, part).is_some()) {
        Some(part) => refused(format!("it has a {part}")),
        None => Ok(()),
    }
}

/// The class of a part, from `["diffusers", "AutoencoderKL"]`; a part that is left out is `[null, null]`.
fn class_of<'a>(index: &'a Value, part: &str) -> Option<&'a str> {
    index[part].as_array()?.last()?.as_str()
}
