//! A base model on a device: what the device's thread works with.

use std::cell::Cell;
use std::path::Path;

use crate::engine::BaseModel;
use crate::engine::Result;
use crate::engine::device::{computing_in, device_named, free_bytes, usable_bytes};
use crate::evaluator::Evaluator;
use crate::model_folder::ModelFolder;

/// A base model's folder with its weights on a device.
pub struct LoadedModel {
    pub folder: ModelFolder,
    pub engine: Engine,
    /// Evaluates images, on the same device. A worker without one leaves evaluations to others.
    pub evaluator: Option<Evaluator>,
}

impl LoadedModel {
    /// Loads a folder of the diffusers layout onto a device such as `cpu` or `cuda:0`.
    ///
    /// - `precision`: what it computes in, `f32`, `bf16` or `f16`, if not in the device's own
    pub fn load(dir: &Path, device: &str, precision: Option<&str>) -> Result<Self> {
        let device = device_named(device)?;
        let (dtype, precision) = computing_in(&device, precision)?;
        let base = BaseModel::load_as(dir, &device, dtype, precision)?;
        warn_of_unread(&base.unexpected_weights);
        let folder = ModelFolder::with_digest(dir, base.digest.as_str().into())?;
        // The other half is left for samples.
        let training_memory = free_bytes(&base.device).map(|free| free as u64 / 2);
        Ok(Self {
            folder,
            engine: Engine { base, training_memory: Cell::new(training_memory) },
            evaluator: None,
        })
    }

    /// The same with an evaluator.
    pub fn with_evaluator(self, evaluator: Option<Evaluator>) -> Self {
        Self { evaluator, ..self }
    }
}

/// Says which weights of the folder nothing reads: another program would make other images with them.
fn warn_of_unread(weights: &[String]) {
    /// Names in one line of the log.
    const NAMED: usize = 10;
    if weights.is_empty() {
        return;
    }
    let names = weights[..weights.len().min(NAMED)].join(", ");
    let more = match weights.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    tracing::warn!(
        "nothing reads these weights of the base model, so it may not generate what its makers meant: {names}{more}"
    );
}

/// Elements of a batch on the CPU.
///
/// An element of `tiny`, 64×64, two threads, `vstar bench denoise --latent 16`: 6.9 ms in a batch of 2, 6.5 of 8, 5.7
/// of 16, 6.8 of 32; at 16×16, `--latent 4`: 1.2 ms of 2, 0.92 of 8, 0.98 of 16, 0.71 of 32. Larger batches only make
/// others wait longer.
const CPU_BATCH_SIZE: usize = 16;
/// The maximum on a GPU, whatever its memory: beyond it, arithmetic is the limit.
const GPU_BATCH_SIZE: usize = 128;
/// Memory that an element takes in a call of the UNet, in maps of its first level: the eight of GEGLU, queries, keys, values and
/// results of attention, and the skip connections, doubled for what the allocator keeps. An estimate, not measured.
const WIDEST_MAPS: usize = 48;

/// What the device's thread owns.
pub struct Engine {
    pub(crate) base: BaseModel,
    /// What a GPU has free for a training step, in bytes; halved whenever that was not true.
    pub(crate) training_memory: Cell<Option<u64>>,
}

impl Engine {
    /// Memory that jobs can have, beside the weights, in MiB; `None` if it is not known.
    pub(crate) fn memory_mib(&self) -> Option<i32> {
        const MIB: usize = 1024 * 1024;
        let bytes = usable_bytes(&self.base.device)?;
        Some(i32::try_from(bytes / MIB).unwrap_or(i32::MAX))
    }

    /// Elements of one call of the UNet that the device has memory for, or beyond which more of them do not help.
    pub(crate) fn max_batch_size(&self) -> usize {
        let Some(free) = free_bytes(&self.base.device) else { return CPU_BATCH_SIZE };
        let config = self.base.unet.config();
        let side = self.base.resolution() / self.base.vae.factor();
        let channels = config.block_out_channels.first().copied().unwrap_or(1);
        let widest = side * side * channels * self.base.unet.dtype().size_in_bytes();
        // Half of it is left to a training and to the decoder.
        (free / 2 / (WIDEST_MAPS * widest)).clamp(1, GPU_BATCH_SIZE)
    }
}
