//! A Stable Diffusion as it was published: loaded once, then shared and never changed.

mod pipeline;

use std::path::Path;

use candle_core::{DType, Device};
use sha2::{Digest, Sha256};

use super::{
    clip::{ClipTextConfig, ClipTokenizer},
    device::{arithmetic, compute_dtype},
    error::{EngineError, Result},
    ops::Precision,
    prompt::PromptEncoder,
    schedulers::SchedulerConfig,
    training::StepMemory,
    unet::{CallSize, UNet2DConditionConfig, UNet2DConditionModel},
    vae::{AutoencoderKl, AutoencoderKlConfig},
    weights::{WeightFiles, read_json},
};
use crate::domain::training::TrainingRecipe;

/// Files whose bytes the model's answers depend on, beside the weights.
const DIGESTED: [&str; 9] = [
    "text_encoder/config.json",
    "unet/config.json",
    "vae/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/added_tokens.json",
];

/// All parts of a diffusers folder that sampling and training need.
pub struct BaseModel {
    pub prompt_encoder: PromptEncoder,
    pub unet: UNet2DConditionModel,
    pub vae: AutoencoderKl,
    pub scheduler: SchedulerConfig,
    pub device: Device,
    /// SHA-256 in hex over configs, vocabulary and weights: a delta names the base model it belongs to by this.
    pub digest: String,
    /// How numbers are computed, as [`arithmetic`] calls it.
    pub arithmetic: String,
    /// Weights of the folder that no layer uses, such as `text_encoder/text_projection.weight`.
    pub unexpected_weights: Vec<String>,
}

impl BaseModel {
    /// Loads a folder of the diffusers layout.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        Self::load_as(dir, device, compute_dtype(device), Precision::default())
    }

    /// Loads it in another dtype than the device's own, such as f32 on a GPU to compare with references, or so that
    /// f32 is computed in another way than the default.
    pub fn load_as(
        dir: &Path,
        device: &Device,
        dtype: DType,
        precision: Precision,
    ) -> Result<Self> {
        pipeline::check_index(dir)?;
        let open = |folder: &str, stem: &str| -> Result<WeightFiles> {
            let files = WeightFiles::open(&dir.join(folder), stem, device, dtype)?;
            Ok(files.with_precision(precision))
        };
        let text_files = open("text_encoder", "model")?;
        let unet_files = open("unet", "diffusion_pytorch_model")?;
        let vae_files = open("vae", "diffusion_pytorch_model")?;

        let mut base = Self {
            prompt_encoder: PromptEncoder::load(dir, &text_files)?,
            unet: UNet2DConditionModel::load(&dir.join("unet"), &unet_files)?,
            vae: AutoencoderKl::load(&dir.join("vae"), &vae_files)?,
            scheduler: SchedulerConfig::read(&dir.join("scheduler/scheduler_config.json"))?,
            device: device.clone(),
            arithmetic: arithmetic(device, dtype, precision),
            digest: digest(dir, &DIGESTED, &[&text_files, &unet_files, &vae_files])?,
            unexpected_weights: Vec::new(),
        };
        for (folder, files) in
            [("text_encoder", &text_files), ("unet", &unet_files), ("vae", &vae_files)]
        {
            base.unexpected_weights
                .extend(files.unexpected().into_iter().map(|name| format!("{folder}/{name}")));
        }
        base.check(dir)?;
        Ok(base)
    }

    /// Height and width of the images that the model was trained on, in pixels.
    pub fn resolution(&self) -> usize {
        // 64 latent cells is what diffusers' pipelines assume where a config is silent.
        self.unet.config().sample_size.unwrap_or(64) * self.vae.factor()
    }

    /// The parts must fit each other.
    fn check(&self, dir: &Path) -> Result<()> {
        let mismatch =
            |reason: String| EngineError::ModelFile { path: dir.display().to_string(), reason };
        let (text, cross) =
            (self.prompt_encoder.hidden_size(), self.unet.config().cross_attention_dim());
        if text != cross {
            return Err(mismatch(format!(
                "the text encoder has width {text}, the unet's cross-attention {cross}"
            )));
        }
        self.prompt_encoder.check().map_err(mismatch)?;
        let (latent, sample) = (self.vae.config().latent_channels, self.unet.config().in_channels);
        if latent != sample || latent != self.unet.config().out_channels {
            return Err(mismatch(format!(
                "the vae has {latent} latent channels, the unet {sample}"
            )));
        }
        Ok(())
    }
}

/// What a folder says about its model without its weights being loaded.
pub struct BaseModelConfig {
    /// Height and width of the images that the model was trained on, in pixels.
    pub resolution: usize,
    /// Pixels a side that become one latent cell.
    pub factor: usize,
    pub scheduler: SchedulerConfig,
    pub unet: UNet2DConditionConfig,
    pub text_encoder: ClipTextConfig,
}

impl BaseModelConfig {
    /// Reads the configs of a folder of the diffusers layout.
    pub fn read(dir: &Path) -> Result<Self> {
        pipeline::check_index(dir)?;
        let unet = UNet2DConditionConfig::read(&dir.join("unet/config.json"))?;
        let factor = AutoencoderKlConfig::read(&dir.join("vae/config.json"))?.factor();
        let scheduler = SchedulerConfig::read(&dir.join("scheduler/scheduler_config.json"))?;
        let text_encoder = read_json(&dir.join("text_encoder/config.json"))?;
        let resolution = unet.sample_size.unwrap_or(64) * factor;
        Ok(Self { resolution, factor, scheduler, unet, text_encoder })
    }

    /// The bytes that a training step needs at least, beside the base model's weights: with activations in 16 bits that are computed
    /// again in the backward pass, as a GPU does it if it has to.
    pub fn least_training_memory(&self, recipe: &TrainingRecipe) -> u64 {
        let batch = recipe.instance_batch_size + recipe.class_batch_size;
        let side = self.resolution / self.factor;
        let call = CallSize { batch, height: side, width: side, dtype: DType::BF16, on_cpu: false };
        let columns = self.unet.cross_attention_dim();
        let columns = recipe.rank.map_or(columns, |rank| rank.min(columns)) as u64;
        let learned = u64::from(recipe.learn.key) + u64::from(recipe.learn.value);
        let trained = self.unet.projected() * columns * learned / 2;
        let prompts = (recipe.instance_batch_size, self.text_encoder.max_position_embeddings);
        let recomputed = self.unet.recompute_all(true);
        StepMemory::of(trained, &self.unet, &self.text_encoder, &call, prompts, &recomputed)
            .beside_weights()
    }
}

/// Reads configs, tokenizer and the heads of the weight files: most of what can be wrong with a folder, in a moment.
pub fn check_folder(dir: &Path) -> Result<()> {
    BaseModelConfig::read(dir)?;
    ClipTokenizer::load(&dir.join("tokenizer"))?;
    weight_files(dir).map(drop)
}

/// The [`BaseModel::digest`] of a folder, from its files alone: no weight goes to a device.
pub fn folder_digest(dir: &Path) -> Result<String> {
    let [text, unet, vae] = weight_files(dir)?;
    digest(dir, &DIGESTED, &[&text, &unet, &vae])
}

/// Those of text encoder, UNet and VAE.
fn weight_files(dir: &Path) -> Result<[WeightFiles; 3]> {
    let open = |folder: &str, stem: &str| {
        WeightFiles::open(&dir.join(folder), stem, &Device::Cpu, DType::F32)
    };
    Ok([
        open("text_encoder", "model")?,
        open("unet", "diffusion_pytorch_model")?,
        open("vae", "diffusion_pytorch_model")?,
    ])
}

/// SHA-256 in hex over the files `names`, as far as they exist, and all weights, in this order.
pub(super) fn digest(dir: &Path, names: &[&str], weights: &[&WeightFiles]) -> Result<String> {
    let mut digest = Sha256::new();
    for name in names {
        let path = dir.join(name);
        if path.is_file() {
            let bytes = std::fs::read(&path).map_err(|error| EngineError::ModelFile {
                path: path.display().to_string(),
                reason: error.to_string(),
            })?;
            digest.update(name);
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
    }
    for files in weights {
        files.update_digest(&mut digest)?;
    }
    Ok(data_encoding::HEXLOWER.encode(&digest.finalize()))
}
