//! Latent consistency models (Luo et al., arXiv:2310.04378, algorithm 3).

use super::schedule::{PredictionType, SchedulerConfig};
use super::scheduler::{Rule, Scheduler, combine, combined};
use crate::engine::error::{EngineError, Result};

/// Scale of the timestep in the boundary condition, and the data's standard deviation.
const TIMESTEP_SCALING: f64 = 10.0;
const SIGMA_DATA: f64 = 0.5;

struct Lcm {
    prediction_type: PredictionType,
    timesteps: Vec<usize>,
    alphas_cumprod: Vec<f64>,
    clip: Option<f64>,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Result<Scheduler> {
    let teacher = config.original_inference_steps.min(config.num_train_timesteps);
    if steps > teacher {
        let text = format!("num_inference_steps is {steps}: scheduler lcm takes at most {teacher}");
        return Err(EngineError::InvalidInput(text));
    }
    let stride = config.num_train_timesteps / teacher;
    let timesteps: Vec<usize> = (0..steps)
        .map(|i| {
            let index = (i as f64 * teacher as f64 / steps as f64).floor() as usize;
            (teacher - index) * stride - 1
        })
        .collect();
    Ok(Scheduler {
        timesteps: timesteps.iter().map(|&t| t as f32).collect(),
        init_noise_sigma: 1.0,
        skipped: 0,
        prediction_type: config.prediction_type,
        rule: Box::new(Lcm {
            prediction_type: config.prediction_type,
            alphas_cumprod: config.alphas_cumprod(),
            clip: config.clip_sample.unwrap_or(false).then_some(config.clip_sample_range),
            timesteps,
        }),
    })
}

impl Rule for Lcm {
    fn needs_noise(&self, step: usize) -> bool {
        step + 1 < self.timesteps.len()
    }

    fn noise_parts(&self, step: usize) -> (f64, f64) {
        let alpha = self.alphas_cumprod[self.timesteps[step]];
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }

    fn step(&mut self, step: usize, model_pred: &[f32], sample: &mut [f32], noise: Option<&[f32]>) {
        let timestep = self.timesteps[step];
        let parts = self.prediction_type.parts(self.alphas_cumprod[timestep]);
        let mut x0 = combined(&[(parts.x0.0, model_pred), (parts.x0.1, sample)]);
        if let Some(range) = self.clip {
            x0.iter_mut().for_each(|value| *value = value.clamp(-range as f32, range as f32));
        }

        let scaled = timestep as f64 * TIMESTEP_SCALING;
        let skip = SIGMA_DATA.powi(2) / (scaled * scaled + SIGMA_DATA.powi(2));
        let out = scaled / (scaled * scaled + SIGMA_DATA.powi(2)).sqrt();
        let denoised = combined(&[(out, &x0), (skip, sample)]);
        match (self.timesteps.get(step + 1), noise) {
            (Some(&next), Some(noise)) => {
                let alpha = self.alphas_cumprod[next];
                combine(sample, &[(alpha.sqrt(), &denoised), ((1.0 - alpha).sqrt(), noise)]);
            }
            (Some(_), None) | (None, _) => sample.copy_from_slice(&denoised),
        }
    }
}
