//! The JSON files of a model folder.

use std::path::Path;

use serde::Deserialize;

use crate::engine::error::{EngineError, Result};

/// Reads a JSON file of the model folder.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let failed =
        |reason: String| EngineError::ModelFile { path: path.display().to_string(), reason };
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
}
