//! A sample: a prompt and how to generate images from it.

use std::ops::{Range, RangeInclusive};

use serde::{Deserialize, Serialize};

use super::code::Code;
use super::composition::Composition;
use super::digest::Digest;
use super::id::ImageId;
use super::invalid::{Checks, FieldError, Invalid};
use super::merge::MergeRecipe;
use super::model_info::ModelInfo;
use super::storage_key::StorageKey;
use super::version::TaskVersion;
use super::warning::Warning;

pub use super::delta_use::{DeltaUse, MAX_DELTAS, STRENGTHS};
pub use super::number::decimal;
pub use super::scheduler::SchedulerName;

/// What is promised about the bytes of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Determinism {
    /// The same request gives the same bytes, whatever other images are generated at the same time.
    #[default]
    Strict,
    /// May share batches with other images where that is faster, and differ in the last bits. On a CPU it never differs.
    Fast,
}

/// The most images that one request can ask for.
pub const MAX_IMAGES: usize = 16;

/// The largest index of a request's first image.
pub const MAX_FIRST_INDEX: usize = 999_999;

/// The largest seed: every JSON client holds integers up to here exactly.
pub const MAX_SEED: u64 = (1 << 53) - 1;

/// How to generate images, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SampleSettings {
    /// The number of images. Image `i` is the same whatever this number is.
    pub n: usize,
    /// The index of the first image: the images are `first_index` to `first_index + n − 1` of this seed.
    pub first_index: usize,
    /// The random seed.
    pub seed: u64,
    /// The number of denoising steps.
    pub num_inference_steps: usize,
    /// Weight of the prompt against the negative prompt. At 1 and below there is no guidance.
    pub guidance_scale: f64,
    /// How much of the concepts the negative prompt sees, from 0 (the base model only) to 1 (all, as in the paper).
    pub unconditional_strength: f64,
    /// The part of the denoising in which guidance is applied, as `[start, end]` in noise levels from 0 (noise) to 1 (image).
    pub guidance_interval: [f64; 2],
    pub scheduler: SchedulerName,
    /// The share of fresh noise in each DDIM step, from 0 to 1. Other schedulers ignore it.
    pub eta: f64,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    pub determinism: Determinism,
    /// A preview of each image is made every this many steps. Null for no previews.
    pub preview_every: Option<usize>,
}

impl SampleSettings {
    /// The indices of the images.
    pub fn indices(&self) -> Range<usize> {
        self.first_index..self.first_index + self.n
    }

    /// Refuses what the base model cannot generate.
    pub fn check(&self, model: &ModelInfo) -> Result<(), Invalid> {
        let mut checks = Checks::default();
        checks.in_range(self.n, 1..=MAX_IMAGES, "/n");
        checks.in_range(self.first_index, 0..=MAX_FIRST_INDEX, "/first_index");
        checks.in_range(self.seed, 0..=MAX_SEED, "/seed");
        checks.in_range(
            self.num_inference_steps,
            1..=model.num_train_timesteps,
            "/num_inference_steps",
        );
        if (1..=model.num_train_timesteps).contains(&self.num_inference_steps)
            && let Err(reason) = (model.check_steps)(self.scheduler, self.num_inference_steps)
        {
            checks.push(FieldError::new("/num_inference_steps", Code::OutOfRange, reason));
        }
        checks.in_range(self.guidance_scale, GUIDANCE_SCALES, "/guidance_scale");
        checks.in_range(
            self.unconditional_strength,
            UNCONDITIONAL_STRENGTHS,
            "/unconditional_strength",
        );
        let [start, end] = self.guidance_interval;
        checks.in_range(start, 0.0..=1.0, "/guidance_interval/0");
        checks.in_range(end, 0.0..=1.0, "/guidance_interval/1");
        checks.require(start <= end, "/guidance_interval", Code::OutOfRange, || {
            format!("it ends at {end}, before its start at {start}: write the smaller number first")
        });
        checks.in_range(self.eta, ETAS, "/eta");
        if let Some(every) = self.preview_every {
            checks.in_range(every, 1..=model.num_train_timesteps, "/preview_every");
        }
        for (side, pointer) in [(self.width, "/width"), (self.height, "/height")] {
            let multiple = model.size_multiple;
            checks.in_range(side, multiple..=model.max_size(), pointer);
            checks.require(side.is_multiple_of(multiple), pointer, Code::NotAMultiple, || {
                format!(
                    "{side} is not a multiple of {multiple}; {} is",
                    side.div_ceil(multiple).max(1) * multiple
                )
            });
        }
        checks.finish()
    }
}

impl SampleSettings {
    /// Whether the UNet answers twice a step: for the prompt and for the negative prompt.
    pub fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// What one image costs: see [`batch_elements`].
    pub fn elements_per_image(&self, native_size: usize) -> usize {
        batch_elements(self.is_guided(), self.width, self.height, native_size)
    }
}

/// What an image takes of a batch, counted in elements of the base model's own size.
///
/// Guidance doubles the elements. An image larger than `native_size` squared counts as many elements as native images
/// cover its area. The queue claims jobs by this number and the running batch admits images by it, so that both mean the
/// same by a batch size.
pub fn batch_elements(is_guided: bool, width: usize, height: usize, native_size: usize) -> usize {
    let elements = if is_guided { 2 } else { 1 };
    elements * (width * height).div_ceil(native_size.pow(2).max(1)).max(1)
}

/// Weights of the prompt against the negative prompt.
pub const GUIDANCE_SCALES: RangeInclusive<f64> = 0.0..=100.0;

/// DDIM's shares of fresh noise.
pub const ETAS: RangeInclusive<f64> = 0.0..=1.0;

/// How much noise is added to an image to start from: never none.
pub const NOISE_STRENGTHS: RangeInclusive<f64> = 1e-6..=1.0;

/// How much of the concepts the negative prompt sees.
pub const UNCONDITIONAL_STRENGTHS: RangeInclusive<f64> = 0.0..=1.0;

/// An image that a sample starts from instead of pure noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InitImage {
    pub image_id: ImageId,
    pub storage_key: StorageKey,
    /// The digest of the PNG.
    pub sha256: Digest,
    /// The share of the steps that are taken, in (0, 1]: 1 leaves little of the image.
    pub noise_strength: f64,
}

impl InitImage {
    /// Refuses a `noise_strength` that leaves no step.
    pub fn check(&self, settings: &SampleSettings) -> Result<(), FieldError> {
        let steps = settings.num_inference_steps;
        if !NOISE_STRENGTHS.contains(&self.noise_strength) {
            let detail = format!("{} is out of range: above 0, at most 1", self.noise_strength);
            return Err(FieldError::new("/noise_strength", Code::OutOfRange, detail));
        }
        if (steps as f64 * self.noise_strength) as usize > 0 {
            return Ok(());
        }
        let detail = format!(
            "{} of {steps} steps is less than one: take more steps, or at least {}",
            self.noise_strength,
            decimal(1.0 / steps as f64 + 5e-7) // rounded up, so that it is enough
        );
        Err(FieldError::new("/noise_strength", Code::OutOfRange, detail))
    }
}

/// The task to generate images of this prompt with these deltas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleTask {
    #[serde(default)]
    pub version: TaskVersion,
    /// Refuses a worker that has another base model.
    pub base_digest: Digest,
    pub prompt: String,
    pub negative_prompt: String,
    pub settings: SampleSettings,
    pub deltas: Vec<DeltaUse>,
    pub init: Option<InitImage>,
    /// How the deltas are merged, if they are several.
    #[serde(default)]
    pub merge: MergeRecipe,
    /// How several concepts come into one picture.
    #[serde(default)]
    pub composition: Composition,
    /// What the request was accepted with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

impl SampleTask {
    /// What one image takes of a batch at most: see [`batch_elements`]. Its regions are generated together, each at the base
    /// model's own size.
    pub fn elements_per_image(&self, native_size: usize) -> usize {
        let whole = self.settings.elements_per_image(native_size);
        let regions = match &self.composition {
            Composition::Merge | Composition::Tokens => 0,
            Composition::Regional(regional) => regional.regions.len(),
        };
        let native =
            batch_elements(self.settings.is_guided(), native_size, native_size, native_size);
        whole.max(regions * native)
    }
}

#[cfg(test)]
mod tests {
    use super::batch_elements;

    #[test]
    fn an_image_costs_its_guidance_and_its_area() {
        for (is_guided, width, height, expected) in [
            (false, 64, 64, 1),
            (true, 64, 64, 2),
            (true, 16, 16, 2), // a small image is an element all the same
            (true, 128, 64, 4),
            (false, 72, 64, 2), // more than one native image counts as two
            (true, 256, 256, 32),
        ] {
            let cost = batch_elements(is_guided, width, height, 64);
            assert_eq!(cost, expected, "{width}×{height}, guided: {is_guided}");
        }
    }
}
