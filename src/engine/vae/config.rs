//! `vae/config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::engine::{
    error::{EngineError, Result},
    layers::require,
    weights::{from_json, read_json},
};

/// The fields of the autoencoder's config that matter here.
#[derive(Clone, Debug, Deserialize)]
pub struct AutoencoderKlConfig {
    #[serde(default = "three")]
    pub in_channels: usize,
    #[serde(default = "three")]
    pub out_channels: usize,
    #[serde(default = "default_latent_channels")]
    pub latent_channels: usize,
    pub block_out_channels: Vec<usize>,
    #[serde(default = "one")]
    pub layers_per_block: usize,
    #[serde(default = "default_norm_num_groups")]
    pub norm_num_groups: usize,
    /// Latents times this have a variance of about one: what the UNet sees.
    #[serde(default = "default_scaling_factor")]
    pub scaling_factor: f64,
    #[serde(default = "yes")]
    pub use_quant_conv: bool,
    #[serde(default = "yes")]
    pub use_post_quant_conv: bool,
    #[serde(default = "yes")]
    pub mid_block_add_attention: bool,
}

impl AutoencoderKlConfig {
    /// Reads the config, and refuses what is not built here.
    pub fn read(path: &Path) -> Result<Self> {
        let json: Value = read_json(path)?;
        require(path, &json, "_class_name", &[json!("AutoencoderKL"), json!("FlaxAutoencoderKL")])?;
        for field in ["latents_mean", "latents_std"] {
            require(path, &json, field, &[json!(null)])?;
        }
        require(path, &json, "shift_factor", &[json!(null), json!(0), json!(0.0)])?;
        require(path, &json, "act_fn", &[json!("silu"), json!("swish")])?;
        let levels = json["block_out_channels"].as_array().map_or(0, Vec::len);
        let failed =
            |reason: String| EngineError::ModelFile { path: path.display().to_string(), reason };
        if levels == 0 {
            return Err(failed("`block_out_channels` is empty".into()));
        }
        require(path, &json, "down_block_types", &[json!(vec!["DownEncoderBlock2D"; levels])])?;
        require(path, &json, "up_block_types", &[json!(vec!["UpDecoderBlock2D"; levels])])?;
        from_json(path, json)
    }
}

fn yes() -> bool {
    true
}

fn one() -> usize {
    1
}

fn three() -> usize {
    3
}

fn default_latent_channels() -> usize {
    4
}

fn default_norm_num_groups() -> usize {
    32
}

fn default_scaling_factor() -> f64 {
    0.18215
}
