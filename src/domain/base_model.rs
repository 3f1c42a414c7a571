//! A base model: what a folder of weights says about its own use.

use serde::{Deserialize, Serialize};

use super::scheduler::SchedulerName;
use super::training::TrainingRecipe;
use super::version::ProfileVersion;

/// How a base model is trained and sampled unless a request says otherwise: its folder's `vstar.json`.
///
/// A folder without that file is used with the paper's numbers ([`Default`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BaseModelProfile {
    pub version: ProfileVersion,
    /// The default recipe of a training of one concept; see [`TrainingRecipe::for_concepts`].
    pub training: TrainingRecipe,
    pub sampling: SamplingDefaults,
    /// Captioned class images, relative to the model's folder: an imagefolder with `metadata.jsonl`, or a zip file of one.
    pub class_images: Option<String>,
}

impl Default for BaseModelProfile {
    fn default() -> Self {
        Self {
            version: ProfileVersion::default(),
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
    /// DDIM's η: 0 is deterministic, 1 adds fresh noise in every step.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_reads_with_and_without_a_version_and_names_one_that_is_too_new() {
        for text in ["{}", r#"{"version": 1}"#] {
            let profile: BaseModelProfile = serde_json::from_str(text).unwrap();
            assert_eq!(profile, BaseModelProfile::default());
        }

        let error = serde_json::from_str::<BaseModelProfile>(r#"{"version": 2}"#).unwrap_err();

        assert!(error.to_string().contains("use the vstar that wrote it"), "{error}");
    }
}
