//! A base model, loaded: what the API knows about it, and what the device's thread works with.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::class_images::ClassImageFolder;
use crate::domain::base_model::BaseModelProfile;
use crate::domain::model_card::ModelCard;
use crate::engine::base_model::BaseModel;
use crate::engine::clip::ClipTokenizer;
use crate::engine::custom_diffusion::pack::MergeBase;
use crate::engine::device::{compute_dtype, device_named, free_bytes};
use crate::engine::schedulers::{check_steps, limits};
use crate::engine::weights::read_json;
use crate::engine::{EngineError, Result};

/// A base model's folder, loaded.
pub struct LoadedModel {
    pub card: Arc<ModelCard>,
    pub engine: Engine,
    pub class_images: ClassImageFolder,
}

impl LoadedModel {
    /// Loads a folder of the diffusers layout onto a device such as `cpu` or `cuda:0`.
    ///
    /// Its own `vstar.json`, where there is one, has the default recipe, sampling defaults and class images.
    pub fn load(dir: &Path, device: &str) -> Result<Self> {
        let profile_path = dir.join("vstar.json");
        let profile: BaseModelProfile = if profile_path.is_file() {
            read_json(&profile_path)?
        } else {
            BaseModelProfile::default()
        };
        let class_images = match &profile.class_images {
            Some(folder) => ClassImageFolder::open(&dir.join(folder)).map_err(|error| {
                EngineError::ModelFile {
                    path: dir.join(folder).display().to_string(),
                    reason: error.to_string(),
                }
            })?,
            None => ClassImageFolder::default(),
        };
        let base = BaseModel::load(dir, &device_named(device)?)?;
        let tokenizer = ClipTokenizer::load(&dir.join("tokenizer"))?;
        let card = Arc::new(ModelCard {
            name: dir
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            digest: base.digest.clone(),
            size_multiple: base.vae.factor(),
            native_size: base.resolution(),
            max_prompt_tokens: base.tokenizer.max_length(),
            num_train_timesteps: base.scheduler.num_train_timesteps,
            schedulers: limits(&base.scheduler),
            recipe: profile.training,
            sampling: profile.sampling,
            has_class_images: !class_images.is_empty(),
            count_tokens: Box::new(move |text, added| {
                // A text that cannot be encoded at all is too long for any model.
                tokenizer.encode(text, added).map_or(usize::MAX, |tokens| tokens.length)
            }),
            check_steps: check_steps(&base.scheduler),
        });
        let captions = class_images.captions();
        // The other half is for samples.
        let training_memory = free_bytes(&base.device).map(|free| free as u64 / 2);
        let engine = Engine { base, training_memory, captions, merge_base: OnceCell::new() };
        Ok(Self { card, engine, class_images })
    }
}

/// Rows of a batch on the CPU.
///
/// A row of `tiny`, 64×64, two threads, `vstar bench denoise --latent 16`: 6.9 ms in a batch of 2, 6.5 of 8, 5.7 of 16, 6.8
/// of 32; at 16×16, `--latent 4`: 1.2 ms of 2, 0.92 of 8, 0.98 of 16, 0.71 of 32. More only make others wait.
const CPU_ROW_BUDGET: usize = 16;
/// The most on a GPU, whatever its memory: by then its arithmetic is the limit.
const GPU_ROW_BUDGET: usize = 128;
/// Memory that a row takes in a call of the UNet, in maps of its first level: the eight of GEGLU, queries, keys, values and
/// results of attention, and the skip connections, doubled for what the allocator keeps. An estimate, not measured.
const WIDEST_MAPS: usize = 48;

/// What the device's thread owns.
pub struct Engine {
    pub(crate) base: BaseModel,
    /// What a GPU has free for a training step, in bytes.
    pub(crate) training_memory: Option<u64>,
    /// Ordinary prompts, over which merges are solved.
    captions: Vec<String>,
    merge_base: OnceCell<MergeBase>,
}

impl Engine {
    /// Rows of one call of the UNet that the device has memory for, or beyond which more of them do not help.
    pub(crate) fn row_budget(&self) -> usize {
        let Some(free) = free_bytes(&self.base.device) else { return CPU_ROW_BUDGET };
        let config = self.base.unet.config();
        let side = self.base.resolution() / self.base.vae.factor();
        let channels = config.block_out_channels.first().copied().unwrap_or(1);
        let widest = side * side * channels * compute_dtype(&self.base.device).size_in_bytes();
        // Half of it is left to a training and to the decoder.
        (free / 2 / (WIDEST_MAPS * widest)).clamp(1, GPU_ROW_BUDGET)
    }

    /// SHA-256 in hex over the captions that merges leave alone.
    pub(crate) fn captions_digest(&self) -> String {
        let mut digest = Sha256::new();
        for caption in &self.captions {
            digest.update((caption.len() as u64).to_le_bytes());
            digest.update(caption);
        }
        data_encoding::HEXLOWER.encode(&digest.finalize())
    }

    /// What all merges have in common; the first one computes it.
    pub(crate) fn merge_base(&self) -> Result<&MergeBase> {
        if let Some(merge_base) = self.merge_base.get() {
            return Ok(merge_base);
        }
        let merge_base = MergeBase::new(&self.base, &self.captions)?;
        Ok(self.merge_base.get_or_init(|| merge_base))
    }
}
