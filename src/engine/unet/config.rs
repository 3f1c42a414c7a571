//! `unet/config.json`.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::engine::{
    error::{EngineError, Result},
    layers::require,
    weights::{from_json, read_json, square},
};

/// Block types that attend to the prompt.
pub(super) const ATTENDING_DOWN: &str = "CrossAttnDownBlock2D";
pub(super) const ATTENDING_UP: &str = "CrossAttnUpBlock2D";

/// The architecture of a UNet, by the field names of its `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct UNet2DConditionConfig {
    #[serde(default = "four")]
    pub in_channels: usize,
    #[serde(default = "four")]
    pub out_channels: usize,
    /// Height and width of the latents that the model was trained on.
    #[serde(default, deserialize_with = "square")]
    pub sample_size: Option<usize>,
    #[serde(default = "default_block_out_channels")]
    pub block_out_channels: Vec<usize>,
    #[serde(default = "default_down_block_types")]
    pub down_block_types: Vec<String>,
    #[serde(default = "default_up_block_types")]
    pub up_block_types: Vec<String>,
    #[serde(default = "default_layers_per_block")]
    layers_per_block: OneOrMany,
    /// In spite of its name the *number* of heads, as in diffusers.
    #[serde(default = "default_attention_head_dim")]
    attention_head_dim: OneOrMany,
    #[serde(default = "one")]
    transformer_layers_per_block: OneOrMany,
    #[serde(default = "default_cross_attention_dim")]
    cross_attention_dim: OneOrMany,
    #[serde(default)]
    pub use_linear_projection: bool,
    #[serde(default = "default_norm_num_groups")]
    pub norm_num_groups: usize,
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
    #[serde(default = "yes")]
    pub flip_sin_to_cos: bool,
    #[serde(default)]
    pub freq_shift: f64,
    #[serde(default)]
    pub time_embedding_dim: Option<usize>,
    #[serde(default = "three")]
    pub conv_in_kernel: usize,
    #[serde(default = "three")]
    pub conv_out_kernel: usize,
    #[serde(default = "one_pixel")]
    pub downsample_padding: usize,
    #[serde(skip, default = "yes")]
    pub mid_block: bool,
}

/// A number for all levels, or one per level from the finest to the coarsest.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(usize),
    Many(Vec<usize>),
}

impl OneOrMany {
    fn at(&self, level: usize) -> usize {
        match self {
            Self::One(value) => *value,
            Self::Many(values) => values[level],
        }
    }
}

impl UNet2DConditionConfig {
    /// Reads the file and refuses what is not built here.
    pub fn read(path: &Path) -> Result<Self> {
        let json: Value = read_json(path)?;
        let absent = [json!(null)];
        for field in [
            "class_embed_type",
            "addition_embed_type",
            "encoder_hid_dim",
            "encoder_hid_dim_type",
            "num_class_embeds",
            "projection_class_embeddings_input_dim",
            "time_cond_proj_dim",
            "time_embedding_act_fn",
            "timestep_post_act",
            "cross_attention_norm",
            "num_attention_heads",
            "reverse_transformer_layers_per_block",
        ] {
            require(path, &json, field, &absent)?;
        }
        require(
            path,
            &json,
            "_class_name",
            &[json!("UNet2DConditionModel"), json!("FlaxUNet2DConditionModel")],
        )?;
        let off = [json!(null), json!(false)];
        for field in [
            "center_input_sample",
            "dual_cross_attention",
            "only_cross_attention",
            "mid_block_only_cross_attention",
            "class_embeddings_concat",
            "resnet_skip_time_act",
        ] {
            // One value for all levels, or a list with one for each.
            match json.get(field).and_then(Value::as_array) {
                Some(values) if values.iter().all(|value| off.contains(value)) => {}
                Some(_) | None => require(path, &json, field, &off)?,
            }
        }
        require(path, &json, "act_fn", &[json!("silu"), json!("swish")])?;
        require(path, &json, "attention_type", &[json!("default")])?;
        require(path, &json, "time_embedding_type", &[json!("positional")])?;
        require(path, &json, "resnet_time_scale_shift", &[json!("default")])?;
        require(path, &json, "resnet_out_scale_factor", &[json!(1), json!(1.0)])?;
        require(path, &json, "mid_block_scale_factor", &[json!(1), json!(1.0)])?;
        require(path, &json, "mid_block_type", &[json!(null), json!("UNetMidBlock2DCrossAttn")])?;

        let failed =
            |reason: String| EngineError::ModelFile { path: path.display().to_string(), reason };
        let mid_block = json.get("mid_block_type").is_none_or(|value| !value.is_null());
        let config: Self = from_json(path, json)?;
        config.check().map_err(failed)?;
        Ok(Self { mid_block, ..config })
    }

    fn check(&self) -> std::result::Result<(), String> {
        let levels = self.levels();
        let same_length = |field: &str, length: usize| match length == levels && levels > 0 {
            true => Ok(()),
            false => Err(format!("`{field}` has {length} entries, `block_out_channels` {levels}")),
        };
        same_length("down_block_types", self.down_block_types.len())?;
        same_length("up_block_types", self.up_block_types.len())?;
        for (field, value) in [
            ("layers_per_block", &self.layers_per_block),
            ("attention_head_dim", &self.attention_head_dim),
            ("transformer_layers_per_block", &self.transformer_layers_per_block),
            ("cross_attention_dim", &self.cross_attention_dim),
        ] {
            if let OneOrMany::Many(values) = value {
                same_length(field, values.len())?;
            }
        }
        for level in 0..levels {
            let (heads, channels) = (self.heads(level), self.block_out_channels[level]);
            if heads == 0 || channels / heads == 0 {
                return Err(format!(
                    "`attention_head_dim` gives {heads} heads for {channels} channels"
                ));
            }
            if self.cross_attention_dim.at(level) != self.cross_attention_dim() {
                return Err(
                    "`cross_attention_dim` differs between levels, which is not supported".into()
                );
            }
        }
        if self.conv_in_kernel.is_multiple_of(2) || self.conv_out_kernel.is_multiple_of(2) {
            return Err("`conv_in_kernel` and `conv_out_kernel` must be odd".into());
        }
        for (types, plain, attending) in [
            (&self.down_block_types, "DownBlock2D", ATTENDING_DOWN),
            (&self.up_block_types, "UpBlock2D", ATTENDING_UP),
        ] {
            if let Some(other) = types.iter().find(|kind| *kind != plain && *kind != attending) {
                return Err(format!(
                    "block type `{other}` is not supported, only {plain} and {attending}"
                ));
            }
        }
        Ok(())
    }

    /// Levels of resolution.
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Width of the text features.
    pub fn cross_attention_dim(&self) -> usize {
        self.cross_attention_dim.at(0)
    }

    /// Width of the time embedding.
    pub fn time_embedding_dim(&self) -> usize {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels[0])
    }

    pub(super) fn layers(&self, level: usize) -> usize {
        self.layers_per_block.at(level)
    }

    pub(super) fn heads(&self, level: usize) -> usize {
        self.attention_head_dim.at(level)
    }

    pub(super) fn transformer_layers(&self, level: usize) -> usize {
        self.transformer_layers_per_block.at(level)
    }
}

fn yes() -> bool {
    true
}

fn three() -> usize {
    3
}

fn four() -> usize {
    4
}

fn one_pixel() -> usize {
    1
}

fn one() -> OneOrMany {
    OneOrMany::One(1)
}

fn default_layers_per_block() -> OneOrMany {
    OneOrMany::One(2)
}

fn default_attention_head_dim() -> OneOrMany {
    OneOrMany::One(8)
}

fn default_cross_attention_dim() -> OneOrMany {
    OneOrMany::One(1280)
}

fn default_norm_num_groups() -> usize {
    32
}

fn default_norm_eps() -> f64 {
    1e-5
}

fn default_block_out_channels() -> Vec<usize> {
    vec![320, 640, 1280, 1280]
}

fn default_down_block_types() -> Vec<String> {
    ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"]
        .map(String::from)
        .into()
}

fn default_up_block_types() -> Vec<String> {
    ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]
        .map(String::from)
        .into()
}
