//! What `vstar bench` is asked to time.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::config::{ByteSize, NetworkPrecision};

/// Times one piece of the engine's work and prints one JSON line.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to time.
    #[arg(value_enum)]
    pub(super) what: Work,
    /// Folder with unet/, vae/, text_encoder/ and scheduler/; no tokenizer is needed.
    #[arg(long)]
    pub(super) model: PathBuf,
    /// Elements of one call; for `merge`, concepts.
    #[arg(long, default_value_t = 2)]
    pub(super) batch: usize,
    /// Height and width of the latents.
    #[arg(long, default_value_t = 32)]
    pub(super) latent: usize,
    /// CPU threads.
    #[arg(long, default_value_t = 2)]
    pub(super) threads: usize,
    /// Timed calls, after one that is not; for `job`, training steps of each concept.
    #[arg(long, default_value_t = 3)]
    pub(super) repeat: usize,
    /// Where it runs: cpu, or cuda:0 in a build with the feature cuda.
    #[arg(long, default_value = "cpu")]
    pub(super) device: String,
    /// What the networks compute in; the device's own if this is not set. On a CPU, bf16 is for the products of linear layers and
    /// attention, and needs AVX512-BF16.
    #[arg(long, value_enum)]
    pub(super) precision: Option<NetworkPrecision>,
    /// For `job`: the folder with photos in dog/ and cat/.
    #[arg(long, value_name = "DIR")]
    pub(super) photos: Option<PathBuf>,
    /// For `job`: where images are written.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// For `train`: what a step may take in addition to the weights, such as 500MB; the UNet's layers are computed again in
    /// the backward pass as far as that takes. With 0, freed memory also goes back to the system at once.
    #[arg(long, value_name = "SIZE")]
    pub memory_budget: Option<ByteSize>,
    /// Computes every product and convolution term by term, without Winograd's transforms.
    #[arg(long)]
    pub(super) exact: bool,
}

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Work {
    /// One UNet call, K and V given.
    Denoise,
    /// One Custom Diffusion step: text encoder, UNet, backward pass to K/V and embedding row, clipping, AdamW.
    Train,
    /// Images to the posterior of their latents.
    #[value(alias = "vae_encode")]
    VaeEncode,
    /// Latents to images.
    #[value(alias = "vae_decode")]
    VaeDecode,
    /// Token ids to text features.
    Text,
    /// As many concepts as `--batch`, from merge packs to the change of one prompt's K and V, on one thread; beside it, to
    /// whole matrices.
    Merge,
    /// One UNet call whose elements are of as many concepts; beside it, elements of one concept.
    Mixed,
    /// The main job without the service: two concepts taught, merged and drawn; losses and images are for comparing devices.
    Job,
    /// Not timed: the bytes of a training step by count, from the folder's configs alone; in bf16 or f16 those of a GPU.
    Memory,
    /// The 200 captions that are most similar to a prompt, of as many as `--batch`, whose vectors have `--latent` numbers. The
    /// vectors are random, and no folder is read.
    Retrieve,
}
