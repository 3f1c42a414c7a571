//! `vstar bench`: one piece of the engine's work, timed on a model folder.
//!
//! The work, its shapes and the fields of the printed line are those of the PyTorch and OpenVINO programs that
//! `benches/compare` runs beside it.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::domain::training::TrainingRecipe;
use crate::engine::clip::ClipTextEncoder;
use crate::engine::conditioning::Conditioning;
use crate::engine::custom_diffusion::parameters::{Batch, FrozenModel};
use crate::engine::custom_diffusion::train::Trainer;
use crate::engine::device::{compute_dtype, device_named};
use crate::engine::ops::Precision;
use crate::engine::random::{Purpose, Random};
use crate::engine::schedulers::SchedulerConfig;
use crate::engine::unet::UNet2DConditionModel;
use crate::engine::vae::AutoencoderKl;
use crate::engine::weights::{WeightFiles, read_json};

/// Times one piece of the engine's work and prints one JSON line.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to time.
    #[arg(value_enum)]
    what: Work,
    /// Folder with unet/, vae/, text_encoder/ and scheduler/; no tokenizer is needed.
    #[arg(long)]
    model: PathBuf,
    /// Rows of one call.
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Height and width of the latents.
    #[arg(long, default_value_t = 32)]
    latent: usize,
    /// CPU threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Timed calls, after one that is not.
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Where it runs: cpu, or cuda:0 in a build with the feature cuda.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Computes every product and convolution term by term, without Winograd's transforms.
    #[arg(long)]
    exact: bool,
}

/// A piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Work {
    /// One UNet call, K and V given.
    Denoise,
    /// One Custom Diffusion step: text encoder, UNet, backward to K/V and token row, clipping, AdamW.
    Train,
    /// Images to the posterior of their latents.
    VaeEncode,
    /// Latents to images.
    VaeDecode,
    /// Token ids to text features.
    Text,
}

/// What is printed; seconds per call.
#[derive(Serialize)]
struct Report {
    engine: &'static str,
    what: Work,
    batch: usize,
    latent: usize,
    threads: usize,
    seconds_median: f64,
    seconds_min: f64,
    seconds_max: f64,
    peak_rss_mib: u64,
}

/// Runs the benchmark and prints its line.
///
/// # Errors
/// A folder that does not load, or a size that the model does not take.
pub fn run(args: &BenchArgs) -> Result<()> {
    ensure!(
        args.repeat > 0 && args.batch > 0 && args.latent > 0,
        "--batch, --latent and --repeat start at 1"
    );
    rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads)
        .build_global()
        .context("thread pool")?;
    let mut call = prepare(args)?;
    call()?;
    let mut seconds = Vec::with_capacity(args.repeat);
    for _ in 0..args.repeat {
        let start = Instant::now();
        call()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let report = Report {
        engine: "vstar",
        what: args.what,
        batch: args.batch,
        latent: args.latent,
        threads: args.threads,
        seconds_median: median(&seconds),
        seconds_min: seconds[0],
        seconds_max: seconds[seconds.len() - 1],
        peak_rss_mib: peak_rss_mib()?,
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Loads what the work needs and returns one call of it.
fn prepare(args: &BenchArgs) -> Result<Box<dyn FnMut() -> Result<()>>> {
    let device = device_named(&args.device)?;
    let precision = if args.exact { Precision::Exact } else { Precision::Fast };
    let (batch, latent) = (args.batch, args.latent);
    let folder = |name: &str| args.model.join(name);
    let files = |name: &str, stem: &str| {
        WeightFiles::open(&folder(name), stem, &device, compute_dtype(&device))
            .map(|files| files.with_precision(precision))
    };
    let unet =
        || UNet2DConditionModel::load(&folder("unet"), &files("unet", "diffusion_pytorch_model")?);
    let vae = || AutoencoderKl::load(&folder("vae"), &files("vae", "diffusion_pytorch_model")?);
    let text_encoder =
        || ClipTextEncoder::load(&folder("text_encoder"), &files("text_encoder", "model")?);
    Ok(match args.what {
        Work::Denoise => {
            let unet = unet()?;
            let features = normal(0, &[batch, 77, unet.config().cross_attention_dim()])?;
            let conditioning = unet.project(&features)?;
            let latents = normal(1, &[batch, unet.config().in_channels, latent, latent])?;
            let timesteps: Vec<f32> =
                timesteps(batch, 1000).into_iter().map(|t| t as f32).collect();
            Box::new(move || denoise(&unet, &latents, &timesteps, &conditioning))
        }
        Work::Train => {
            let unet = unet()?;
            let text_encoder = text_encoder()?;
            let scheduler =
                read_json::<SchedulerConfig>(&folder("scheduler").join("scheduler_config.json"))?;
            let row = Tensor::from_vec(
                text_encoder.token_row(0)?,
                (1, text_encoder.hidden_size()),
                &device,
            )?;
            let frozen =
                FrozenModel { unet: &unet, text_encoder: &text_encoder, scheduler: &scheduler };
            let mut trainer = Trainer::new(frozen, &TrainingRecipe::paper(), Some(row))?;
            let shape = [batch, unet.config().in_channels, latent, latent];
            let batch = Batch {
                latents: normal(1, &shape)?,
                noise: normal(2, &shape)?,
                timesteps: timesteps(batch, scheduler.num_train_timesteps),
                input_ids: captions(&text_encoder, batch),
                mask: Tensor::ones((batch, 1, latent, latent), candle_core::DType::F32, &device)?,
                is_class_image: vec![false; batch],
            };
            Box::new(move || {
                let frozen =
                    FrozenModel { unet: &unet, text_encoder: &text_encoder, scheduler: &scheduler };
                trainer.step(frozen, &batch, 8e-5)?;
                Ok(())
            })
        }
        Work::VaeEncode => {
            let vae = vae()?;
            let side = latent * vae.factor();
            let images = normal(1, &[batch, 3, side, side])?;
            Box::new(move || {
                vae.encode(&images)?;
                Ok(())
            })
        }
        Work::VaeDecode => {
            let vae = vae()?;
            let latents = normal(1, &[batch, vae.config().latent_channels, latent, latent])?;
            Box::new(move || {
                vae.decode(&latents)?;
                Ok(())
            })
        }
        Work::Text => {
            let text_encoder = text_encoder()?;
            let mut ids = captions(&text_encoder, batch);
            for row in &mut ids {
                row[4] = 0; // no modifier token
            }
            Box::new(move || {
                text_encoder.forward(&ids, None)?;
                Ok(())
            })
        }
    })
}

fn denoise(
    unet: &UNet2DConditionModel,
    latents: &Tensor,
    timesteps: &[f32],
    conditioning: &Conditioning,
) -> Result<()> {
    unet.forward(latents, timesteps, conditioning)?;
    Ok(())
}

fn normal(row: u64, shape: &[usize]) -> Result<Tensor> {
    let mut values = vec![0.0; shape.iter().product()];
    Random::new(0, Purpose::Noise, 0, row).normals(&mut values);
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn timesteps(batch: usize, of: usize) -> Vec<u32> {
    let mut random = Random::new(0, Purpose::Timestep, 0, 0);
    (0..batch).map(|_| random.below(of) as u32).collect()
}

/// Random ids; the first half of the rows hold the modifier token at position 4.
fn captions(text_encoder: &ClipTextEncoder, batch: usize) -> Vec<Vec<u32>> {
    let mut random = Random::new(0, Purpose::DataOrder, 0, 0);
    let vocab_size = text_encoder.vocab_size();
    (0..batch)
        .map(|row| {
            let mut ids: Vec<u32> = (0..text_encoder.max_position_embeddings())
                .map(|_| random.below(vocab_size - 3) as u32)
                .collect();
            if row < (batch / 2).max(1) {
                ids[4] = vocab_size as u32;
            }
            ids
        })
        .collect()
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The most memory that this process has had resident.
fn peak_rss_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024)
}
