//! From one noise level to the next: the rules of sampling, as diffusers defines them.
//!
//! A [`Scheduler`] belongs to one image of a batch and works on the host, on that image's latents; the images of a batch
//! may follow different rules with different numbers of steps. `ᾱ_t` is the cumulative product of `1 − β`, and
//! `σ_t = √((1 − ᾱ_t) / ᾱ_t)` its noise level.

mod config_file;
mod ddim;
mod ddpm;
mod dpm_solver;
mod euler;
mod lcm;
mod pndm;
mod schedule;
mod scheduler;
mod unipc;

use super::error::{EngineError, Result};
use crate::domain::model_info::{CheckSteps, SchedulerLimit};
use crate::domain::sample::SchedulerName;

pub(crate) use config_file::is_supported;
pub use schedule::{BetaSchedule, PredictionType, SchedulerConfig, TimestepSpacing};
pub use scheduler::Scheduler;

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
        Self::late(name, config, num_inference_steps, eta, 0)
    }

    /// [`Self::new`] without its first `skipped` steps, for an image that does not start from noise alone.
    ///
    /// # Errors
    /// Also if no step is left.
    pub fn late(
        name: SchedulerName,
        config: &SchedulerConfig,
        num_inference_steps: usize,
        eta: f64,
        skipped: usize,
    ) -> Result<Self> {
        let trained = config.num_train_timesteps;
        if num_inference_steps == 0 || num_inference_steps > trained {
            return Err(EngineError::InvalidInput(format!(
                "num_inference_steps is {num_inference_steps}: it must be between 1 and {trained}"
            )));
        }
        if skipped >= num_inference_steps {
            return Err(EngineError::InvalidInput(format!(
                "noise_strength leaves none of {num_inference_steps} steps: take more of either"
            )));
        }
        config
            .check()
            .map_err(|text| EngineError::InvalidInput(format!("scheduler_config.json: {text}")))?;
        let steps = num_inference_steps;
        let mut scheduler = match name {
            SchedulerName::Ddim => {
                in_range(config, &config.visited(steps, TimestepSpacing::Leading))?;
                ddim::plan(config, steps, eta)
            }
            SchedulerName::Ddpm => {
                in_range(config, &config.visited(steps, TimestepSpacing::Leading))?;
                ddpm::plan(config, steps)
            }
            // Repeats whichever step is its first.
            SchedulerName::Pndm => return pndm::plan(config, steps, skipped),
            SchedulerName::Euler => euler::plan(config, steps, euler::Kind::Deterministic),
            SchedulerName::EulerA => euler::plan(config, steps, euler::Kind::Ancestral),
            SchedulerName::Dpmpp2m => {
                in_range(config, &config.visited_before_zero(steps))?;
                distinct(&config.visited_before_zero(steps))?;
                dpm_solver::plan(config, steps, dpm_solver::Levels::OfTimesteps)
            }
            SchedulerName::Dpmpp2mKarras => {
                dpm_solver::plan(config, steps, dpm_solver::Levels::Karras)
            }
            SchedulerName::UniPc => {
                in_range(config, &config.visited_before_zero(steps))?;
                distinct(&config.visited_before_zero(steps))?;
                unipc::plan(config, steps)
            }
            SchedulerName::Lcm => lcm::plan(config, steps)?,
        };
        scheduler.timesteps.drain(..skipped);
        scheduler.skipped = skipped;
        Ok(scheduler)
    }
}

/// The schedulers that can be used with a config, and the most steps of each.
pub fn limits(config: &SchedulerConfig) -> Vec<SchedulerLimit> {
    let limit = |name| {
        let takes = |&steps: &usize| Scheduler::new(name, config, steps, 0.0).is_ok();
        let max_steps = (1..=config.num_train_timesteps).rev().find(takes)?;
        Some(SchedulerLimit { name, max_steps })
    };
    SchedulerName::ALL.into_iter().filter_map(limit).collect()
}

/// The rule by which a number of steps is checked before anything is generated.
pub fn check_steps(config: &SchedulerConfig) -> CheckSteps {
    let config = config.clone();
    Box::new(move |name, steps| match Scheduler::new(name, &config, steps, 0.0) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
}

/// Refuses more steps than a spacing with an offset has room for.
fn in_range(config: &SchedulerConfig, timesteps: &[f64]) -> Result<()> {
    let first = timesteps.first().copied().unwrap_or_default();
    if first < config.num_train_timesteps as f64 {
        return Ok(());
    }
    Err(EngineError::InvalidInput(format!(
        "num_inference_steps is {}: with this model's timestep spacing the first timestep would be {first}; take fewer",
        timesteps.len()
    )))
}

/// Refuses a number of steps at which two fall on one timestep: a solver cannot step between them.
fn distinct(timesteps: &[f64]) -> Result<()> {
    if timesteps.windows(2).all(|pair| pair[0] > pair[1]) {
        return Ok(());
    }
    let text = format!(
        "num_inference_steps is {}: two steps fall on one timestep; take fewer",
        timesteps.len()
    );
    Err(EngineError::InvalidInput(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable_diffusion() -> SchedulerConfig {
        SchedulerConfig {
            beta_start: 0.000_85,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            steps_offset: 1,
            clip_sample: Some(false),
            timestep_spacing: Some(TimestepSpacing::Leading),
            ..SchedulerConfig::default()
        }
    }

    const ALL: [SchedulerName; 9] = [
        SchedulerName::Ddim,
        SchedulerName::Ddpm,
        SchedulerName::Pndm,
        SchedulerName::Euler,
        SchedulerName::EulerA,
        SchedulerName::Dpmpp2m,
        SchedulerName::Dpmpp2mKarras,
        SchedulerName::UniPc,
        SchedulerName::Lcm,
    ];

    #[test]
    fn every_number_of_steps_is_finite_or_refused() {
        let config = stable_diffusion();
        for name in ALL {
            for steps in (1..=60).chain([499, 500, 501, 998, 999, 1000]) {
                let Ok(mut scheduler) = Scheduler::new(name, &config, steps, 1.0) else {
                    assert!(steps > 50, "{name:?} refuses {steps} steps");
                    continue;
                };
                let mut sample = vec![scheduler.init_noise_sigma(), -0.5];
                for step in 0..scheduler.timesteps().len() {
                    let noise = scheduler.needs_noise(step).then_some([0.3, -0.2]);
                    scheduler.step(
                        step,
                        &[0.1, -0.2],
                        &mut sample,
                        noise.as_ref().map(|noise| noise.as_slice()),
                    );
                }
                assert!(
                    sample.iter().all(|value| value.is_finite()),
                    "{name:?} with {steps} steps"
                );
            }
        }
    }

    #[test]
    fn no_steps_and_too_many_are_refused_by_name() {
        for steps in [0, 1001] {
            let error =
                Scheduler::new(SchedulerName::Ddim, &stable_diffusion(), steps, 0.0).err().unwrap();
            assert!(error.to_string().contains("num_inference_steps"), "{error}");
        }
    }

    #[test]
    fn trailing_timesteps_are_numpys() {
        let config = SchedulerConfig {
            timestep_spacing: Some(TimestepSpacing::Trailing),
            ..stable_diffusion()
        };
        let scheduler = Scheduler::new(SchedulerName::Ddim, &config, 48, 0.0).unwrap();

        // `np.round(np.arange(1000, 0, -1000 / 48)) - 1`
        assert_eq!(scheduler.timesteps()[..4], [999.0, 978.0, 957.0, 936.0]);
    }
}
