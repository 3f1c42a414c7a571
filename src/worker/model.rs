//! A base model, loaded: what the API knows about it, and what the device's thread works with.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use super::class_images::ClassImageFolder;
use crate::domain::base_model::BaseModelProfile;
use crate::domain::model_info::ModelInfo;
use crate::engine::base_model::BaseModel;
use crate::engine::clip::ClipTokenizer;
use crate::engine::custom_diffusion::delta::kv_weights;
use crate::engine::custom_diffusion::merge_base::{MergeBase, captions_digest};
use crate::engine::device::{compute_dtype, device_named, free_bytes};
use crate::engine::schedulers::{check_steps, limits};
use crate::engine::weights::read_json;
use crate::engine::{EngineError, Result};
use crate::merge_desk::MergeKit;

/// A base model's folder, loaded.
pub struct LoadedModel {
    pub card: Arc<ModelInfo>,
    pub engine: Engine,
    pub class_images: ClassImageFolder,
    /// For the API's own answers about merges.
    pub merge_kit: MergeKit,
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
        let card = Arc::new(ModelInfo {
            name: dir
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            digest: base.digest.as_str().into(),
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
        let merge_kit = MergeKit {
            base_digest: base.digest.clone(),
            captions_digest: (!captions.is_empty()).then(|| captions_digest(&captions)),
            kv_weights: kv_weights(base.unet.cross_attention()),
        };
        // The other half is for samples.
        let training_memory = free_bytes(&base.device).map(|free| free as u64 / 2);
        let merge_bases = RefCell::default();
        let engine = Engine { base, training_memory, captions, merge_bases };
        Ok(Self { card, engine, class_images, merge_kit })
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
/// Sets of captions that are kept, 10 MB each for a Stable Diffusion 1.
const MERGE_BASES: usize = 4;

/// What the device's thread owns.
pub struct Engine {
    pub(crate) base: BaseModel,
    /// What a GPU has free for a training step, in bytes.
    pub(crate) training_memory: Option<u64>,
    /// Ordinary prompts, over which merges are solved.
    captions: Vec<String>,
    /// Those of the last few sets of captions, the last one first.
    merge_bases: RefCell<Vec<Arc<MergeBase>>>,
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

    /// SHA-256 in hex over the captions that merges leave alone unless a request gives others.
    pub(crate) fn captions_digest(&self) -> String {
        captions_digest(&self.captions)
    }

    /// What merges over these captions have in common, those of the class images if none are given; the first merge
    /// computes it.
    pub(crate) fn merge_base(&self, captions: Option<&[String]>) -> Result<Arc<MergeBase>> {
        let captions = captions.unwrap_or(&self.captions);
        let digest = captions_digest(captions);
        let mut kept = self.merge_bases.borrow_mut();
        let known = kept.iter().position(|known| known.captions_digest == digest);
        let merge_base = match known {
            Some(place) => kept.remove(place),
            None => Arc::new(MergeBase::new(&self.base, captions)?),
        };
        kept.insert(0, merge_base.clone());
        kept.truncate(MERGE_BASES);
        Ok(merge_base)
    }

    /// Whether merges have captions without a request giving them.
    pub(crate) fn has_captions(&self) -> bool {
        !self.captions.is_empty()
    }
}
