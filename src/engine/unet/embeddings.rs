//! Timesteps as vectors.

use candle_core::{DType, Device, Tensor};

use super::config::UNet2DConditionConfig;
use crate::engine::{
    autograd::Variable,
    error::Result,
    ops::{self, FrozenLinear},
    weights::Weights,
};

/// `W₂ silu(W₁ γ(t) + b₁) + b₂` with sinusoids `γ(t) = [cos(t ω), sin(t ω)]`, `ωᵢ = 10000^(−i / (half − freq_shift))`.
///
/// In f32 whatever the compute dtype: in bf16, t = 999 is 1000, and the arguments of the sinusoids are off by radians.
///
/// | weight                       | shape, with `c₀ = block_out_channels[0]` |
/// |------------------------------|------------------------------------------|
/// | `linear_1.weight`, `.bias`   | `(time_dim, c₀)`, `(time_dim,)`          |
/// | `linear_2.weight`, `.bias`   | `(time_dim, time_dim)`, `(time_dim,)`    |
pub(super) struct TimestepEmbedding {
    linear_1: FrozenLinear,
    linear_2: FrozenLinear,
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    device: Device,
}

impl TimestepEmbedding {
    pub(super) fn load(config: &UNet2DConditionConfig, weights: &Weights<'_>) -> Result<Self> {
        let (channels, dim) = (config.block_out_channels[0], config.time_embedding_dim());
        let linear = |weights: &Weights<'_>, columns: usize| -> Result<FrozenLinear> {
            let weight = weights.get_as("weight", &[dim, columns], DType::F32)?;
            Ok(FrozenLinear::new(weight, Some(weights.get_as("bias", &[dim], DType::F32)?))?)
        };
        Ok(Self {
            linear_1: linear(&weights.at("linear_1"), channels)?,
            linear_2: linear(&weights.at("linear_2"), dim)?,
            channels,
            flip_sin_to_cos: config.flip_sin_to_cos,
            freq_shift: config.freq_shift,
            device: weights.device().clone(),
        })
    }

    /// One timestep per element → `(batch, time_dim)` in f32.
    pub(super) fn forward(&self, timesteps: &[f32]) -> Result<Variable> {
        let sinusoids: Vec<f32> = timesteps.iter().flat_map(|t| self.sinusoids(*t)).collect();
        let sinusoids =
            Tensor::from_vec(sinusoids, (timesteps.len(), self.channels), &self.device)?; // (batch, c₀)
        Ok(self.linear_2.forward(&ops::silu(&self.linear_1.forward(&sinusoids.into())?)?)?)
    }

    fn sinusoids(&self, timestep: f32) -> Vec<f32> {
        let half = self.channels / 2;
        // f32 step by step, as the reference rounds it.
        let argument = |i: usize| {
            let exponent = -(10_000_f32.ln()) * i as f32 / (half as f64 - self.freq_shift) as f32;
            timestep * exponent.exp()
        };
        let sines = (0..half).map(|i| argument(i).sin());
        let cosines = (0..half).map(|i| argument(i).cos());
        let mut embedding: Vec<f32> = if self.flip_sin_to_cos {
            cosines.chain(sines).collect()
        } else {
            sines.chain(cosines).collect()
        };
        embedding.resize(self.channels, 0.0); // an odd width ends with a zero
        embedding
    }
}
