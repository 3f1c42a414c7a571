//! What a training step holds by count, without computing anything: the table of docs/gpu.md.

use anyhow::Result;
use candle_core::DType;
use serde::Serialize;

use super::args::BenchArgs;
use crate::domain::training::TrainingRecipe;
use crate::engine::unet::{CallSize, Recomputation};
use crate::engine::{BaseModelConfig, StepMemory};

/// What is printed, in bytes.
#[derive(Serialize)]
pub(super) struct MemoryReport {
    engine: &'static str,
    what: &'static str,
    batch: usize,
    latent: usize,
    dtype: &'static str,
    /// Of UNet and text encoder.
    weights: u64,
    /// The whole step, if every activation is kept.
    kept: u64,
    /// The whole step, if every layer is computed again in the backward pass.
    recomputed: u64,
}

/// Counts a step of the paper's recipe from the folder's configs; no weights are needed.
///
/// # Errors
/// A folder whose configs cannot be read.
pub(super) fn report(args: &BenchArgs, dtype: DType, on_cpu: bool) -> Result<MemoryReport> {
    let config = BaseModelConfig::read(&args.model)?;
    let (batch, side) = (args.batch, args.latent);
    let call = CallSize { batch, height: side, width: side, dtype, on_cpu };
    let recipe = TrainingRecipe::paper();
    let columns = config.unet.cross_attention_dim();
    let columns = recipe.rank.map_or(columns, |rank| rank.min(columns)) as u64;
    let trained = config.unet.projected() * columns;
    // Half of the captions are the concept's, each with its modifier token.
    let prompts = (batch.div_ceil(2), config.text_encoder.max_position_embeddings);
    let of = |recomputation: &Recomputation| {
        StepMemory::of(trained, &config.unet, &config.text_encoder, &call, prompts, recomputation)
    };
    let (kept, recomputed) =
        (of(&config.unet.recompute_all(false)), of(&config.unet.recompute_all(true)));
    Ok(MemoryReport {
        engine: "vstar",
        what: "memory",
        batch,
        latent: side,
        dtype: dtype.as_str(),
        weights: kept.weights,
        kept: kept.total(),
        recomputed: recomputed.total(),
    })
}
