//! Capabilities: what this service can be asked for.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use crate::domain::image::{
    MAX_PHOTO_BYTES, MAX_PHOTO_PIXELS, MAX_PHOTO_SIDE, MAX_PHOTOS, MIN_PHOTO_SIDE,
};
use crate::domain::sample::{MAX_DELTAS, MAX_IMAGES, SchedulerName};
use crate::domain::training::{MAX_CONCEPTS, MIN_IMAGES, TrainingRecipe};

/// The base model, its defaults and all limits.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CapabilitiesBody {
    #[schema(value_type = String, examples("capabilities"))]
    object: &'static str,
    version: &'static str,
    base_model: BaseModelBody,
    schedulers: Vec<SchedulerName>,
    sampling_defaults: SamplingDefaultsBody,
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

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SamplingDefaultsBody {
    scheduler: SchedulerName,
    num_inference_steps: usize,
    guidance_scale: f64,
    eta: f64,
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

/// Returns what this service can be asked for: base model, schedulers, defaults and limits.
#[utoipa::path(get, path = "/v1/capabilities", tag = "capabilities",
    responses((status = 200, body = CapabilitiesBody)))]
pub(crate) async fn get_capabilities(State(app): State<App>) -> axum::Json<CapabilitiesBody> {
    let model = &app.model;
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
        schedulers: SchedulerName::ALL.to_vec(),
        sampling_defaults: SamplingDefaultsBody {
            scheduler: model.sampling.scheduler,
            num_inference_steps: model.sampling.num_inference_steps,
            guidance_scale: model.sampling.guidance_scale,
            eta: model.sampling.eta,
        },
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
