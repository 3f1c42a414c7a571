//! From one noise level to the next: the rules of sampling, as diffusers defines them.
//!
//! A [`Scheduler`] belongs to one row of a batch and works on the host, on that row's latents; rows of one batch may
//! follow different rules with different numbers of steps. `ᾱ_t` is the cumulative product of `1 − β`, and
//! `σ_t = √((1 − ᾱ_t) / ᾱ_t)` its noise level.

mod ddim;
mod ddpm;
mod dpm_solver;
mod euler;
mod lcm;
mod pndm;
mod schedule;
mod unipc;

use super::{EngineError, Result};
use crate::domain::sample::SchedulerName;

pub use schedule::{BetaSchedule, PredictionType, SchedulerConfig, TimestepSpacing};

/// One row's way from noise to image.
pub struct Scheduler {
    timesteps: Vec<f32>,
    init_noise_sigma: f32,
    rule: Box<dyn Rule>,
}

/// What a family of schedulers does at a step; `step` counts from 0 and goes up by one at each call.
trait Rule: Send {
    /// `sample / √(σ² + 1)` for rules that work on `x₀ + σ ε`; others change nothing.
    fn scale_model_input(&self, _step: usize, sample: &[f32]) -> Vec<f32> {
        sample.to_vec()
    }

    /// Whether the step adds fresh noise.
    fn needs_noise(&self, _step: usize) -> bool {
        false
    }

    /// Replaces the sample by the one at the next timestep.
    fn step(&mut self, step: usize, model_pred: &[f32], sample: &mut [f32], noise: Option<&[f32]>);
}

impl Scheduler {
    /// Plans `num_inference_steps` steps of the rule `name`; `eta` is DDIM's η and ignored by the others.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if the rule cannot take that many steps or not predict what the model predicts.
    pub fn new(
        name: SchedulerName,
        config: &SchedulerConfig,
        num_inference_steps: usize,
        eta: f64,
    ) -> Result<Self> {
        let trained = config.num_train_timesteps;
        if num_inference_steps == 0 || num_inference_steps > trained {
            return Err(EngineError::InvalidInput(format!(
                "num_inference_steps is {num_inference_steps}: it must be between 1 and {trained}"
            )));
        }
        let steps = num_inference_steps;
        match name {
            SchedulerName::Ddim => Ok(ddim::plan(config, steps, eta)),
            SchedulerName::Ddpm => Ok(ddpm::plan(config, steps)),
            SchedulerName::Pndm => pndm::plan(config, steps),
            SchedulerName::Euler => Ok(euler::plan(config, steps, euler::Kind::Deterministic)),
            SchedulerName::EulerA => Ok(euler::plan(config, steps, euler::Kind::Ancestral)),
            SchedulerName::Dpmpp2m => {
                Ok(dpm_solver::plan(config, steps, dpm_solver::Levels::OfTimesteps))
            }
            SchedulerName::Dpmpp2mKarras => {
                Ok(dpm_solver::plan(config, steps, dpm_solver::Levels::Karras))
            }
            SchedulerName::UniPc => Ok(unipc::plan(config, steps)),
            SchedulerName::Lcm => lcm::plan(config, steps),
        }
    }

    /// The timestep that the model is called with at each step, from noisy to clean.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// What standard normal latents are multiplied by at the start.
    pub fn init_noise_sigma(&self) -> f32 {
        self.init_noise_sigma
    }

    /// What the model sees of the sample at `step`.
    pub fn scale_model_input(&self, step: usize, sample: &[f32]) -> Vec<f32> {
        self.rule.scale_model_input(step, sample)
    }

    /// Whether [`Self::step`] wants standard normal noise at `step`.
    pub fn needs_noise(&self, step: usize) -> bool {
        self.rule.needs_noise(step)
    }

    /// Takes the sample from `timesteps()[step]` to the next; steps must be taken in order.
    pub fn step(
        &mut self,
        step: usize,
        model_pred: &[f32],
        sample: &mut [f32],
        noise: Option<&[f32]>,
    ) {
        self.rule.step(step, model_pred, sample, noise);
    }
}

/// `out ← Σ factor · part`, element by element in f64.
fn combine(out: &mut [f32], parts: &[(f64, &[f32])]) {
    for (i, out) in out.iter_mut().enumerate() {
        *out = parts.iter().map(|(factor, part)| factor * f64::from(part[i])).sum::<f64>() as f32;
    }
}

/// The same as [`combine`], as a new row.
fn combined(parts: &[(f64, &[f32])]) -> Vec<f32> {
    let mut out = vec![0.0; parts.first().map_or(0, |(_, part)| part.len())];
    combine(&mut out, parts);
    out
}
