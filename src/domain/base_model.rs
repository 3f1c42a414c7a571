//! A base model: what a folder of weights says about its own use.

use serde::{Deserialize, Serialize};

use super::sample::SchedulerName;
use super::training::TrainingRecipe;

/// How a base model is trained and sampled unless a request says otherwise: its folder's `vstar.json`.
///
/// A folder without that file is used with the paper's numbers ([`Default`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BaseModelProfile {
    /// The default recipe of a training of one concept; see [`TrainingRecipe::for_concepts`].
    pub training: TrainingRecipe,
    pub sampling: SamplingDefaults,
    /// Folder of captioned class images (imagefolder with `metadata.jsonl`), relative to the model's folder.
    pub class_images: Option<String>,
}

impl Default for BaseModelProfile {
    fn default() -> Self {
        Self {
            training: TrainingRecipe::paper(),
            sampling: SamplingDefaults::paper(),
            class_images: None,
        }
    }
}

/// Values of a sample's optional fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingDefaults {
    pub scheduler: SchedulerName,
    pub num_inference_steps: usize,
    pub guidance_scale: f64,
    /// DDIM's η: 0 is deterministic, 1 draws fresh noise in every step.
    pub eta: f64,
}

impl SamplingDefaults {
    /// The paper's metrics: DDIM with η = 1, 50 steps, guidance 6.
    pub fn paper() -> Self {
        Self {
            scheduler: SchedulerName::Ddim,
            num_inference_steps: 50,
            guidance_scale: 6.0,
            eta: 1.0,
        }
    }
}
