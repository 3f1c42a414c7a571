//! The autoencoder between images and latents.

mod coder;
mod config;

use std::path::Path;

use candle_core::{DType, Tensor};

use self::coder::{Decoder, Encoder};
use super::{
    autograd::Variable,
    error::{EngineError, Result},
    layers::conv_same,
    ops::FrozenConv2d,
    split::Split,
    weights::WeightFiles,
};

pub use config::AutoencoderKlConfig;

impl AutoencoderKlConfig {
    /// Pixels a side that become one latent cell.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// Where an image lies among the latents: a normal distribution per number, both `(batch, latent_channels, h, w)`.
#[derive(Clone, Debug)]
pub struct Posterior {
    pub mean: Tensor,
    pub std: Tensor,
}

/// Encodes images to latents and decodes latents to images.
///
/// `[μ, log σ²] = quant_conv(encoder(x))` with `log σ²` clamped to [−30, 20]; `x̂ = decoder(post_quant_conv(z))`.
/// Latents here are unscaled: the caller multiplies by [`Self::scaling_factor`] before the UNet.
///
/// | weight                               | shape, with `l = latent_channels`      |
/// |--------------------------------------|----------------------------------------|
/// | `encoder.*`, `decoder.*`             | see `vae/coder.rs`                         |
/// | `quant_conv.weight`, `.bias`         | `(2l, 2l, 1, 1)`, `(2l,)`              |
/// | `post_quant_conv.weight`, `.bias`    | `(l, l, 1, 1)`, `(l,)`                 |
pub struct AutoencoderKl {
    config: AutoencoderKlConfig,
    encoder: Encoder,
    quant_conv: Option<FrozenConv2d>,
    post_quant_conv: Option<FrozenConv2d>,
    decoder: Decoder,
    dtype: DType,
    split: Split,
}

impl AutoencoderKl {
    /// Reads the config and takes the weights.
    pub fn load(dir: &Path, files: &WeightFiles) -> Result<Self> {
        let config = AutoencoderKlConfig::read(&dir.join("config.json"))?;
        let weights = files.root();
        let latent = config.latent_channels;
        let quant_conv = match config.use_quant_conv {
            true => Some(conv_same(&weights.at("quant_conv"), (2 * latent, 2 * latent), 1)?),
            false => None,
        };
        let post_quant_conv = match config.use_post_quant_conv {
            true => Some(conv_same(&weights.at("post_quant_conv"), (latent, latent), 1)?),
            false => None,
        };
        Ok(Self {
            encoder: Encoder::load(&config, &weights.at("encoder"))?,
            quant_conv,
            post_quant_conv,
            decoder: Decoder::load(&config, &weights.at("decoder"))?,
            dtype: files.dtype(),
            split: Split::of(files),
            config,
        })
    }

    /// - `images`: `(batch, 3, H, W)` in [−1, 1], H and W multiples of [`Self::factor`]
    /// - returns mean and deviation of the unscaled latents, `(batch, latent_channels, H/factor, W/factor)`
    pub fn encode(&self, images: &Tensor) -> Result<Posterior> {
        let (_, channels, height, width) = images.dims4()?;
        let factor = self.factor();
        if channels != self.config.in_channels
            || !height.is_multiple_of(factor)
            || !width.is_multiple_of(factor)
        {
            return Err(EngineError::InvalidInput(format!(
                "an image of {channels} channels, {width}×{height}, does not fit: {} channels and multiples of {factor}",
                self.config.in_channels
            )));
        }
        let moments = self.by_rows(images, |images| {
            let moments = self.encoder.forward(&images)?; // (batch, h, w, 2·latent)
            Ok(match &self.quant_conv {
                Some(conv) => conv.forward(&moments)?,
                None => moments,
            })
        })?;
        let halves = moments.chunk(2, 1)?;
        let log_variance = halves[1].clamp(-30.0, 20.0)?;
        Ok(Posterior { mean: halves[0].contiguous()?, std: (log_variance * 0.5)?.exp()? })
    }

    /// - `latents`: unscaled, `(batch, latent_channels, h, w)`
    /// - returns `(batch, 3, h·factor, w·factor)`, about [−1, 1]
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.by_rows(latents, |latents| {
            let hidden_states = match &self.post_quant_conv {
                Some(conv) => conv.forward(&latents)?,
                None => latents,
            };
            self.decoder.forward(&hidden_states)
        })
    }

    /// Applies `f`, which takes images with the channels last, to images with the channels first.
    fn by_rows(
        &self,
        images: &Tensor,
        f: impl Fn(Variable) -> Result<Variable> + Sync,
    ) -> Result<Tensor> {
        let part = |range: std::ops::Range<usize>| -> Result<Tensor> {
            let elements = images.narrow(0, range.start, range.len())?.to_dtype(self.dtype)?;
            let result = f(elements.permute((0, 2, 3, 1))?.contiguous()?.into())?;
            Ok(result.tensor().permute((0, 3, 1, 2))?.contiguous()?)
        };
        Ok(Tensor::cat(&self.split.map(images.dim(0)?, part)?, 0)?.to_dtype(images.dtype())?)
    }

    /// What latents are multiplied by before the UNet sees them.
    pub fn scaling_factor(&self) -> f64 {
        self.config.scaling_factor
    }

    /// Pixels per latent cell, in height and in width.
    pub fn factor(&self) -> usize {
        self.config.factor()
    }

    /// The published config.
    pub fn config(&self) -> &AutoencoderKlConfig {
        &self.config
    }
}
