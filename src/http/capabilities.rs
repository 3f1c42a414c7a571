//! Capabilities: what this service supports.

use std::ops::RangeInclusive;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{App, DEFAULT_NOISE_STRENGTH};
use crate::domain::digest::Digest;
use crate::domain::evaluator_info::EvaluatorInfo;
use crate::domain::image::{
    MAX_PHOTO_BYTES, MAX_PHOTO_PIXELS, MAX_PHOTO_SIDE, MAX_PHOTOS, MIN_PHOTO_SIDE,
};
use crate::domain::model_info::{ModelInfo, SchedulerLimit};
use crate::domain::sample::{
    Determinism, ETAS, GUIDANCE_SCALES, MAX_DELTAS, MAX_FIRST_INDEX, MAX_IMAGES, MAX_SEED,
    NOISE_STRENGTHS, STRENGTHS, SchedulerName, UNCONDITIONAL_STRENGTHS,
};
use crate::domain::training::{MAX_CONCEPTS, MIN_IMAGES, TrainingRecipe};

/// What the service supports: the base model, its defaults and all limits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CapabilitiesBody {
    #[schema(value_type = String, examples("capabilities"))]
    object: &'static str,
    /// The version of the service.
    version: &'static str,
    /// The base model that is served.
    base_model: BaseModelBody,
    /// The model that evaluates images. Null if there is none: then evaluations are refused.
    evaluator: Option<EvaluatorInfo>,
    /// The schedulers that samples can use.
    schedulers: Vec<SchedulerBody>,
    /// The settings of a sample whose request does not give them.
    sampling_defaults: SamplingDefaultsBody,
    /// The ranges of the numbers in a sample request, both ends included.
    sampling_ranges: SamplingRangesBody,
    /// The recipes for one concept. A joint training of several concepts takes that many times the steps.
    training_presets: PresetsBody,
    /// Limits of photos, trainings and samples.
    limits: LimitsBody,
}

/// The base model and the size of its images.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BaseModelBody {
    /// The name of its folder.
    name: String,
    /// The digest of its configs and weights.
    digest: Digest,
    /// The side of the images that it was trained on, in pixels. Also the default width and height.
    native_size: usize,
    /// Width and height are multiples of this.
    size_multiple: usize,
    /// The largest width and height, in pixels.
    max_size: usize,
    /// The most tokens of a prompt, including start and end.
    max_prompt_tokens: usize,
    /// Whether trainings can use class images.
    has_class_images: bool,
}

/// A scheduler that samples can use.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SchedulerBody {
    name: SchedulerName,
    /// The most steps that the scheduler can take.
    num_inference_steps_max: usize,
    /// Whether the scheduler uses `eta`.
    uses_eta: bool,
    /// Whether its steps add fresh noise; those of DDIM do with an `eta` above 0.
    draws_noise: bool,
}

/// The settings of a sample whose request does not give them; the fields are those of the request.
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

/// The smallest and the largest value of each number; the fields are those of a sample request.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SamplingRangesBody {
    n: [usize; 2],
    first_index: [usize; 2],
    seed: [u64; 2],
    /// For the scheduler that can take the most steps; `schedulers` has the limit of each.
    num_inference_steps: [usize; 2],
    guidance_scale: [f64; 2],
    unconditional_strength: [f64; 2],
    /// For both ends of the interval.
    guidance_interval: [f64; 2],
    eta: [f64; 2],
    /// For each entry of `concepts`.
    strength: [f64; 2],
    noise_strength: [f64; 2],
    preview_every: [usize; 2],
    /// In pixels.
    width: [usize; 2],
    /// In pixels.
    height: [usize; 2],
}

/// The recipes that trainings can start from.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PresetsBody {
    /// The base model's own recipe.
    default: TrainingRecipe,
    /// The numbers of Custom Diffusion, CVPR 2023.
    paper: TrainingRecipe,
}

/// Limits of photos, trainings and samples.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LimitsBody {
    /// The fewest photos of a concept that a training accepts.
    photos_per_training_min: usize,
    /// The most photos of a concept.
    photos_per_concept_max: usize,
    /// The largest file of a photo, in bytes.
    photo_bytes_max: usize,
    /// The most pixels of a photo, width times height.
    photo_pixels_max: u64,
    /// The shortest side of a photo, in pixels.
    photo_side_min: u32,
    /// The longest side of a photo, in pixels.
    photo_side_max: u32,
    /// The most concepts that one training can teach jointly.
    concepts_per_training_max: usize,
    /// The most deltas that one sample can combine.
    deltas_per_sample_max: usize,
    /// The most images that one sample can generate.
    images_per_sample_max: usize,
    /// The most denoising steps, which is the number of timesteps that the base model was trained on.
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

/// Returns what this service supports: base model, schedulers, defaults and limits.
#[utoipa::path(get, path = "/v1/capabilities", tag = "capabilities",
    responses((status = 200, body = CapabilitiesBody, description = "OK")))]
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
        evaluator: app.evaluator().cloned(),
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
