//! CLIP's vision transformer.

use std::path::Path;

use candle_core::Tensor;
use serde::Deserialize;

use super::encoder::{Encoder, EncoderConfig, HiddenAct};
use crate::engine::{
    autograd::Variable,
    error::{EngineError, Result},
    layers::layer_norm,
    ops::{FrozenLinear, LayerNorm},
    split::Split,
    weights::Weights,
};

/// `vision_config` of a CLIP model's `config.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct ClipVisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_hidden_layers: usize,
    pub num_channels: usize,
    pub image_size: usize,
    pub patch_size: usize,
    pub hidden_act: HiddenAct,
    pub layer_norm_eps: f64,
}

impl ClipVisionConfig {
    /// Patches per side. What is left over at the right and the bottom is not seen.
    fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    fn encoder(&self) -> EncoderConfig {
        EncoderConfig {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_attention_heads: self.num_attention_heads,
            num_hidden_layers: self.num_hidden_layers,
            hidden_act: self.hidden_act,
            layer_norm_eps: self.layer_norm_eps,
        }
    }

    /// Refuses what is not built here.
    ///
    /// - `path`: the config file, which the error names
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        self.encoder().check(path)?;
        let refused = |reason: String| {
            Err(EngineError::ModelFile { path: path.display().to_string(), reason })
        };
        if self.num_channels != 3 {
            return refused(format!(
                "`num_channels` is {}, only 3 is supported",
                self.num_channels
            ));
        }
        if self.patch_size == 0 || self.patch_size > self.image_size {
            return refused(format!(
                "`patch_size` {} does not fit `image_size` {}",
                self.patch_size, self.image_size
            ));
        }
        Ok(())
    }
}

/// Turns an image into one vector.
///
/// `h = LN_pre([class; W_p patch₁; …; W_p patchₙ] + P)`, then the encoder's layers, where every position attends to all;
/// the result is `LN_post h₀`, that of the class token.
///
/// | weight                                  | shape, with `g = image_size / patch_size`           |
/// |-----------------------------------------|-----------------------------------------------------|
/// | `embeddings.class_embedding`            | `(hidden_size,)`                                    |
/// | `embeddings.patch_embedding.weight`     | `(hidden_size, 3, patch_size, patch_size)`, no bias |
/// | `embeddings.position_embedding.weight`  | `(g² + 1, hidden_size)`                             |
/// | `pre_layrnorm`, `post_layernorm`: `.weight`, `.bias` | `(hidden_size,)`                       |
/// | `encoder.layers.N.*`                    | see `Encoder`                                       |
pub struct ClipVisionEncoder {
    config: ClipVisionConfig,
    /// The class token with its position, `(1, hidden_size)`.
    class_embedding: Tensor,
    /// The convolution's stride is its kernel: it is one product with each patch.
    patch_embedding: FrozenLinear,
    /// Positions of the patches, `(g², hidden_size)`.
    position_embedding: Tensor,
    pre_layernorm: LayerNorm,
    encoder: Encoder,
    post_layernorm: LayerNorm,
    split: Split,
}

impl ClipVisionEncoder {
    /// Takes the weights of a config that was checked.
    pub(super) fn new(
        config: ClipVisionConfig,
        weights: &Weights<'_>,
        split: Split,
    ) -> Result<Self> {
        let (dim, patch, eps) = (config.hidden_size, config.patch_size, config.layer_norm_eps);
        let patches = config.grid() * config.grid();
        let embeddings = weights.at("embeddings");
        let class = embeddings.get("class_embedding", &[dim])?.unsqueeze(0)?; // (1, dim)
        let filters = embeddings.get("patch_embedding.weight", &[dim, 3, patch, patch])?;
        let positions = embeddings.get("position_embedding.weight", &[patches + 1, dim])?;
        Ok(Self {
            class_embedding: (class + positions.narrow(0, 0, 1)?)?,
            patch_embedding: FrozenLinear::new(filters.reshape((dim, ()))?, None)?,
            position_embedding: positions.narrow(0, 1, patches)?.contiguous()?,
            pre_layernorm: layer_norm(&weights.at("pre_layrnorm"), dim, eps)?, // spelled so in every checkpoint
            encoder: Encoder::new(config.encoder(), &weights.at("encoder"))?,
            post_layernorm: layer_norm(&weights.at("post_layernorm"), dim, eps)?,
            split,
            config,
        })
    }

    /// - `pixel_values`: `(batch, 3, image_size, image_size)`, as the image processor makes them
    /// - returns `(batch, hidden_size)`, which transformers calls `pooler_output`
    pub fn forward(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let encode = |range: std::ops::Range<usize>| {
            self.encode(&pixel_values.narrow(0, range.start, range.len())?)
        };
        Ok(Tensor::cat(&self.split.map(pixel_values.dim(0)?, encode)?, 0)?)
    }

    /// The published config.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    fn encode(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let patches = self.patch_embedding.forward(&self.patches(pixel_values)?.into())?;
        let patches = patches.tensor().broadcast_add(&self.position_embedding)?; // (batch, g², dim)
        let (batch, _, dim) = patches.dims3()?;
        let class = self.class_embedding.expand((batch, 1, dim))?;
        let hidden_states = Variable::from(Tensor::cat(&[&class, &patches], 1)?); // (batch, g² + 1, dim)

        let hidden_states = self.pre_layernorm.forward(&hidden_states)?;
        let hidden_states = self.encoder.forward(hidden_states, None)?;
        let class = hidden_states.tensor().narrow(1, 0, 1)?.squeeze(1)?; // (batch, dim)
        Ok(self.post_layernorm.forward(&class.into())?.into_tensor())
    }

    /// `(batch, 3, image_size, image_size)` → `(batch, g², 3 · patch_size²)`, each patch in the order of the filters.
    fn patches(&self, pixel_values: &Tensor) -> Result<Tensor> {
        let (batch, channels, _, _) = pixel_values.dims4()?;
        let (grid, patch) = (self.config.grid(), self.config.patch_size);
        let seen = pixel_values.narrow(2, 0, grid * patch)?.narrow(3, 0, grid * patch)?;
        let tiles = seen.contiguous()?.reshape(&[batch, channels, grid, patch, grid, patch][..])?;
        let tiles = tiles.permute(vec![0, 2, 4, 1, 3, 5])?; // (batch, g, g, channels, patch, patch)
        Ok(tiles.contiguous()?.reshape((batch, grid * grid, ()))?)
    }
}
