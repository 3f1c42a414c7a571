//! A sample: a prompt and how to draw it.

use std::ops::{Range, RangeInclusive};

use serde::{Deserialize, Serialize};

use super::code::Code;
use super::id::{DeltaId, ImageId};
use super::invalid::{Checks, FieldError, Invalid};
use super::merge::MergeRecipe;
use super::model_info::ModelInfo;

/// The rule by which a denoising step goes from one noise level to the next, named as in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SchedulerName {
    Ddim,
    Ddpm,
    Pndm,
    Euler,
    EulerA,
    #[serde(rename = "dpmpp_2m")]
    Dpmpp2m,
    #[serde(rename = "dpmpp_2m_karras")]
    Dpmpp2mKarras,
    #[serde(rename = "unipc")]
    UniPc,
    Lcm,
}

impl SchedulerName {
    /// Every scheduler, in the order of the documentation.
    pub const ALL: [Self; 9] = [
        Self::Ddim,
        Self::Ddpm,
        Self::Pndm,
        Self::Euler,
        Self::EulerA,
        Self::Dpmpp2m,
        Self::Dpmpp2mKarras,
        Self::UniPc,
        Self::Lcm,
    ];
}

/// A number of a request, to six decimals: so many survive being written and read, exactly, any number of times.
pub fn decimal(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

/// What is promised of a picture's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Determinism {
    /// The same request gives the same bytes, whatever else is drawn with it.
    #[default]
    Strict,
    /// Shares calls with other pictures where that is quicker, and may differ in the last bits. On a CPU it never does.
    Fast,
}

/// Pictures that one request can ask for.
pub const MAX_IMAGES: usize = 16;

/// The largest index of a request's first picture.
pub const MAX_FIRST_INDEX: usize = 999_999;

/// Deltas that one picture can combine.
pub const MAX_DELTAS: usize = 8;

/// The largest seed: every JSON client holds integers up to here exactly.
pub const MAX_SEED: u64 = (1 << 53) - 1;

/// How to draw, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SampleSettings {
    /// Pictures to draw; picture `i` is the same whatever this number is.
    pub n: usize,
    /// The index of the first: the pictures are `first_index` to `first_index + n − 1` of this seed.
    pub first_index: usize,
    pub seed: u64,
    pub num_inference_steps: usize,
    /// Weight of the prompt against the negative prompt; 1 and below draws without guidance.
    pub guidance_scale: f64,
    /// How much of the concepts the negative prompt sees: 1 all, as in the paper, 0 the base model alone.
    pub unconditional_strength: f64,
    /// Where guidance is applied on the way from noise, 0, to picture, 1, by noise level: `[start, end]`.
    pub guidance_interval: [f64; 2],
    pub scheduler: SchedulerName,
    /// DDIM's share of fresh noise per step, 0 to 1; other schedulers have no use for it.
    pub eta: f64,
    pub width: usize,
    pub height: usize,
    pub determinism: Determinism,
    /// A preview is made every so many steps.
    pub preview_every: Option<usize>,
}

impl SampleSettings {
    /// The indices of the pictures.
    pub fn indices(&self) -> Range<usize> {
        self.first_index..self.first_index + self.n
    }

    /// Refuses what the base model cannot draw.
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
    /// The most rows that one picture takes in one call of the UNet: guidance has a row of its own.
    pub fn rows_per_image(&self) -> usize {
        if self.guidance_scale > 1.0 { 2 } else { 1 }
    }
}

/// How much a delta changes the base model: 0 not at all, 1 as trained.
pub const STRENGTHS: RangeInclusive<f64> = 0.0..=2.0;

/// Weights of the prompt against the negative prompt.
pub const GUIDANCE_SCALES: RangeInclusive<f64> = 0.0..=100.0;

/// DDIM's shares of fresh noise.
pub const ETAS: RangeInclusive<f64> = 0.0..=1.0;

/// How much of an image to start from is drawn anew: not nothing.
pub const NOISE_STRENGTHS: RangeInclusive<f64> = 1e-6..=1.0;

/// How much of that the negative prompt sees.
pub const UNCONDITIONAL_STRENGTHS: RangeInclusive<f64> = 0.0..=1.0;

/// A delta that takes part in a sample or a merge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeltaUse {
    pub delta_id: DeltaId,
    pub storage_key: String,
    /// What a merge needs of it, if that has been stored.
    #[serde(default)]
    pub pack_key: Option<String>,
    /// SHA-256 of the object, in hex.
    pub sha256: String,
    pub strength: f64,
}

/// An image that the pictures start from instead of noise alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InitImage {
    pub image_id: ImageId,
    pub storage_key: String,
    /// SHA-256 of the PNG, in hex.
    pub sha256: String,
    /// The share of the steps that are taken, in (0, 1]: 1 leaves little of the image.
    pub noise_strength: f64,
}

impl InitImage {
    /// Refuses so little of so few steps that none is left.
    pub fn check(&self, settings: &SampleSettings) -> Result<(), FieldError> {
        let steps = settings.num_inference_steps;
        if !NOISE_STRENGTHS.contains(&self.noise_strength) {
            let detail = format!("{} is outside (0, 1]", self.noise_strength);
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

/// Draw this prompt with these deltas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleTask {
    /// Refuses a worker that has another base model.
    pub base_digest: String,
    pub prompt: String,
    pub negative_prompt: String,
    pub settings: SampleSettings,
    pub deltas: Vec<DeltaUse>,
    pub init: Option<InitImage>,
    /// How the deltas are merged, if they are several.
    #[serde(default)]
    pub merge: MergeRecipe,
}
