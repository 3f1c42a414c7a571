//! `scheduler_config.json`, as diffusers' `StableDiffusionPipeline` takes it.

use std::path::Path;

use serde_json::Value;

use super::schedule::SchedulerConfig;
use crate::engine::error::{EngineError, Result};
use crate::engine::weights::{from_json, read_json};

/// Families whose noise follows from a schedule of betas, by their classes in diffusers. A model of another family, such as
/// flow matching, is not what it is sampled as here.
const CLASSES: [&str; 21] = [
    "DDIMInverseScheduler",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
];

impl SchedulerConfig {
    /// Reads the file. Fields that say `null` count as absent.
    ///
    /// Like the pipeline, it takes `clip_sample` as false and `steps_offset` as 1 whatever the file says: latents go beyond
    /// ±1, and the many files with other values were published by mistake.
    ///
    /// # Errors
    /// [`EngineError::ModelFile`] for a class or a value that is not supported.
    pub fn read(path: &Path) -> Result<Self> {
        let mut json: Value = read_json(path)?;
        let failed =
            |reason: String| EngineError::ModelFile { path: path.display().to_string(), reason };
        check_class(&json).map_err(failed)?;
        if let Some(fields) = json.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        let config = Self { clip_sample: Some(false), steps_offset: 1, ..from_json(path, json)? };
        config.check().map_err(failed)?;
        Ok(config)
    }
}

/// Whether models are published with a scheduler of this class that can be sampled here.
pub(crate) fn is_supported(class: &str) -> bool {
    let class = class.strip_prefix("Flax").unwrap_or(class);
    CLASSES.contains(&class)
}

fn check_class(json: &Value) -> Result<(), String> {
    if let Some(class) = json["_class_name"].as_str()
        && !is_supported(class)
    {
        return Err(format!(
            "scheduler class `{class}` is not supported: only models that were trained on a schedule of betas are, such as \
             those of DDIMScheduler and PNDMScheduler"
        ));
    }
    if json["use_flow_sigmas"] == Value::Bool(true) {
        return Err("`use_flow_sigmas` is true, and flow matching is not supported".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::schedulers::PredictionType;

    fn read(text: &str) -> Result<SchedulerConfig> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scheduler_config.json");
        std::fs::write(&path, text).unwrap();
        SchedulerConfig::read(&path)
    }

    fn reason(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn latents_are_never_clipped_and_timesteps_begin_at_one() {
        for text in [
            "{}",
            r#"{"clip_sample": true, "steps_offset": 0}"#,
            r#"{"_class_name": "EulerDiscreteScheduler", "steps_offset": 0, "sigma_min": null}"#,
            r#"{"_class_name": "FlaxPNDMScheduler", "skip_prk_steps": true, "lambda_min_clipped": -Infinity}"#,
        ] {
            let config = read(text).unwrap();

            assert_eq!((config.clip_sample, config.steps_offset), (Some(false), 1), "{text}");
        }
    }

    #[test]
    fn null_counts_as_absent() {
        let config = read(
            r#"{"prediction_type": null, "beta_start": null, "timestep_spacing": null, "clip_sample_range": null}"#,
        );

        assert_eq!(config.unwrap().prediction_type, PredictionType::Epsilon);
    }

    #[test]
    fn what_is_not_sampled_here_is_refused_by_name() {
        for (text, named) in [
            (r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#, "FlowMatchEuler"),
            (r#"{"_class_name": "EDMEulerScheduler"}"#, "EDMEuler"),
            (r#"{"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true}"#, "flow"),
            (r#"{"prediction_type": "flow_prediction"}"#, "prediction_type"),
            (r#"{"timestep_spacing": "odd"}"#, "timestep_spacing"),
            (r#"{"beta_start": NaN}"#, "beta_start"),
            (r#"{"num_train_timesteps": 1}"#, "num_train_timesteps"),
            (r#"{"thresholding": true}"#, "thresholding"),
            (r#"{"trained_betas": [0.1, 0.2]}"#, "trained_betas"),
        ] {
            assert!(reason(text).contains(named), "{text}: {}", reason(text));
        }
    }
}
