//! Capabilities: what this service can be asked for.

use std::ops::RangeInclusive;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{App, DEFAULT_NOISE_STRENGTH};
use crate::domain::image::{
    MAX_PHOTO_BYTES, MAX_PHOTO_PIXELS, MAX_PHOTO_SIDE, MAX_PHOTOS, MIN_PHOTO_SIDE,
};
use crate::domain::model_info::{ModelInfo, SchedulerLimit};
use crate::domain::sample::{
    Determinism, ETAS, GUIDANCE_SCALES, MAX_DELTAS, MAX_FIRST_INDEX, MAX_IMAGES, MAX_SEED,
    NOISE_STRENGTHS, STRENGTHS, SchedulerName, UNCONDITIONAL_STRENGTHS,
};
use crate::domain::training::{MAX_CONCEPTS, MIN_IMAGES, TrainingRecipe};

/// The base model, its defaults and all limits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CapabilitiesBody {
    #[schema(value_type = String, examples("capabilities"))]
    object: &'static str,
    version: &'static str,
    base_model: BaseModelBody,
    schedulers: Vec<SchedulerBody>,
    sampling_defaults: SamplingDefaultsBody,
    /// Ranges of the numbers in a sample request, both ends included.
    sampling_ranges: SamplingRangesBody,
    /// Recipes for one concept; several concepts take that many times the steps.
    training_presets: PresetsBody,
    limits: LimitsBody,
}

/// What pictures the base model draws.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BaseModelBody {
    name: String,
    digest: String,
    /// The side that it was trained on, in pixels; the default width and height.
    native_size: usize,
    /// Width and height are multiples of this.
    size_multiple: usize,
    max_size: usize,
    /// With begin and end.
    max_prompt_tokens: usize,
    /// Whether trainings can use class images.
    has_class_images: bool,
}

/// A scheduler that samples can ask for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SchedulerBody {
    name: SchedulerName,
    num_inference_steps_max: usize,
    /// Whether `eta` means anything to it.
    uses_eta: bool,
    /// Whether its steps draw fresh noise, DDIM's with an `eta` above 0.
    draws_noise: bool,
}

/// What a sample is drawn with where its request is silent.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SamplingDefaultsBody {
    scheduler: SchedulerName,
    num_inference_steps: usize,
    guidance_scale: f64,
    unconditional_strength: f64,
    guidance_interval: [f64; 2],
    eta: f64,
    strength: f64,
    noise_strength: f64,
    determinism: Determinism,
}

/// The least and the most of each number.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SamplingRangesBody {
    n: [usize; 2],
    first_index: [usize; 2],
    seed: [u64; 2],
    /// Of the scheduler that takes most; each says its own.
    num_inference_steps: [usize; 2],
    guidance_scale: [f64; 2],
    unconditional_strength: [f64; 2],
    /// Of both its ends.
    guidance_interval: [f64; 2],
    eta: [f64; 2],
    /// Of each entry of `concepts`.
    strength: [f64; 2],
    noise_strength: [f64; 2],
    preview_every: [usize; 2],
    width: [usize; 2],
    height: [usize; 2],
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PresetsBody {
    default: TrainingRecipe,
    paper: TrainingRecipe,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LimitsBody {
    photos_per_training_min: usize,
    photos_per_concept_max: usize,
    photo_bytes_max: usize,
    photo_pixels_max: u64,
    photo_side_min: u32,
    photo_side_max: u32,
    concepts_per_training_max: usize,
    deltas_per_sample_max: usize,
    images_per_sample_max: usize,
    num_inference_steps_max: usize,
}

impl From<&SchedulerLimit> for SchedulerBody {
    fn from(limit: &SchedulerLimit) -> Self {
        use SchedulerName::*;
        Self {
            name: limit.name,
            num_inference_steps_max: limit.max_steps,
            uses_eta: limit.name == Ddim,
            draws_noise: match limit.name {
                Ddim | Ddpm | EulerA | Lcm => true,
                Pndm | Euler | Dpmpp2m | Dpmpp2mKarras | UniPc => false,
            },
        }
    }
}

impl SamplingRangesBody {
    fn new(model: &ModelInfo) -> Self {
        let ends = |range: RangeInclusive<f64>| [*range.start(), *range.end()];
        let most_steps = model.schedulers.iter().map(|limit| limit.max_steps).max().unwrap_or(1);
        let sides = [model.size_multiple, model.max_size()];
        Self {
            n: [1, MAX_IMAGES],
            first_index: [0, MAX_FIRST_INDEX],
            seed: [0, MAX_SEED],
            num_inference_steps: [1, most_steps],
            guidance_scale: ends(GUIDANCE_SCALES),
            unconditional_strength: ends(UNCONDITIONAL_STRENGTHS),
            guidance_interval: [0.0, 1.0],
            eta: ends(ETAS),
            strength: ends(STRENGTHS),
            noise_strength: ends(NOISE_STRENGTHS),
            preview_every: [1, model.num_train_timesteps],
            width: sides,
            height: sides,
        }
    }
}

/// Returns what this service can be asked for: base model, schedulers, defaults and limits.
#[utoipa::path(get, path = "/v1/capabilities", tag = "capabilities",
    responses((status = 200, body = CapabilitiesBody)))]
pub(crate) async fn get_capabilities(State(app): State<App>) -> axum::Json<CapabilitiesBody> {
    let model = app.model();
    axum::Json(CapabilitiesBody {
        object: "capabilities",
        version: env!("CARGO_PKG_VERSION"),
        base_model: BaseModelBody {
            name: model.name.clone(),
            digest: model.digest.clone(),
            native_size: model.native_size,
            size_multiple: model.size_multiple,
            max_size: model.max_size(),
            max_prompt_tokens: model.max_prompt_tokens,
            has_class_images: model.has_class_images,
        },
        schedulers: model.schedulers.iter().map(SchedulerBody::from).collect(),
        sampling_defaults: SamplingDefaultsBody {
            scheduler: model.sampling.scheduler,
            num_inference_steps: model.sampling.num_inference_steps,
            guidance_scale: model.sampling.guidance_scale,
            unconditional_strength: 1.0,
            guidance_interval: [0.0, 1.0],
            eta: model.sampling.eta,
            strength: 1.0,
            noise_strength: DEFAULT_NOISE_STRENGTH,
            determinism: Determinism::default(),
        },
        sampling_ranges: SamplingRangesBody::new(model),
        training_presets: PresetsBody {
            default: model.recipe.clone(),
            paper: TrainingRecipe::paper(),
        },
        limits: LimitsBody {
            photos_per_training_min: MIN_IMAGES,
            photos_per_concept_max: MAX_PHOTOS,
            photo_bytes_max: MAX_PHOTO_BYTES,
            photo_pixels_max: MAX_PHOTO_PIXELS,
            photo_side_min: MIN_PHOTO_SIDE,
            photo_side_max: MAX_PHOTO_SIDE,
            concepts_per_training_max: MAX_CONCEPTS,
            deltas_per_sample_max: MAX_DELTAS,
            images_per_sample_max: MAX_IMAGES,
            num_inference_steps_max: model.num_train_timesteps,
        },
    })
}
