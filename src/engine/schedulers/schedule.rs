//! The noise schedule of a model: betas, their products, and which timesteps are visited.

use serde::{Deserialize, Serialize};

/// How β grows from `beta_start` to `beta_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    Linear,
    /// Linear in √β: Stable Diffusion's.
    ScaledLinear,
    SquaredcosCapV2,
}

/// What the model was trained to predict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictionType {
    /// The noise ε.
    Epsilon,
    /// `v = √ᾱ ε − √(1−ᾱ) x₀`.
    VPrediction,
    /// The clean sample x₀.
    Sample,
}

/// How a few timesteps are chosen among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    Leading,
    Linspace,
    Trailing,
}

/// The fields of a published `scheduler_config.json` that matter here; those of other families are ignored.
///
/// A field that is `None` takes the default of the scheduler family that is used, as in diffusers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    /// Betas given one by one instead.
    pub trained_betas: Option<Vec<f64>>,
    pub prediction_type: PredictionType,
    pub timestep_spacing: Option<TimestepSpacing>,
    pub steps_offset: usize,
    pub set_alpha_to_one: Option<bool>,
    /// Whether x₀ is cut to ±`clip_sample_range`; for models of pixels.
    pub clip_sample: Option<bool>,
    pub clip_sample_range: f64,
    pub rescale_betas_zero_snr: bool,
    /// Dynamic thresholding, for models of pixels: refused.
    pub thresholding: bool,
    /// LCM: the steps of the teacher among which the few are chosen.
    pub original_inference_steps: usize,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            // diffusers' defaults. Stable Diffusion's files say 0.00085, 0.012, scaled_linear.
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            set_alpha_to_one: None,
            clip_sample: None,
            clip_sample_range: 1.0,
            rescale_betas_zero_snr: false,
            thresholding: false,
            original_inference_steps: 50,
        }
    }
}

impl SchedulerConfig {
    /// `ᾱ_t` for every timestep; exactly 0 at the last one of a schedule with zero terminal SNR.
    pub fn alphas_cumprod(&self) -> Vec<f64> {
        let mut product = 1.0;
        let products: Vec<f64> = self
            .betas()
            .into_iter()
            .map(|beta| {
                product *= 1.0 - beta;
                product
            })
            .collect();
        if self.rescale_betas_zero_snr { zero_terminal_snr(&products) } else { products }
    }

    /// `σ_t` for every timestep.
    pub(super) fn sigmas(&self) -> Vec<f64> {
        // A zero would give an infinite σ; diffusers keeps 2⁻²⁴.
        let alphas = self.alphas_cumprod().into_iter().map(|alpha| alpha.max(2f64.powi(-24)));
        alphas.map(|alpha| ((1.0 - alpha) / alpha).sqrt()).collect()
    }

    /// `σ` between timesteps, by linear interpolation.
    pub(super) fn sigmas_at(&self, timesteps: &[f64]) -> Vec<f64> {
        let sigmas = self.sigmas();
        let last = sigmas.len() - 1;
        timesteps
            .iter()
            .map(|&t| {
                let low = (t.max(0.0).floor() as usize).min(last);
                let high = (low + 1).min(last);
                sigmas[low] + (sigmas[high] - sigmas[low]) * (t - low as f64).clamp(0.0, 1.0)
            })
            .collect()
    }

    /// `steps` timesteps from noisy to clean: the rule of DDIM, DDPM, PNDM and the Euler methods.
    pub(super) fn visited(&self, steps: usize, default: TimestepSpacing) -> Vec<f64> {
        let trained = self.num_train_timesteps;
        match self.timestep_spacing.unwrap_or(default) {
            TimestepSpacing::Leading => {
                let ratio = trained / steps;
                (0..steps).rev().map(|i| (i * ratio + self.steps_offset) as f64).collect()
            }
            TimestepSpacing::Linspace => {
                linspace(0.0, (trained - 1) as f64, steps).into_iter().rev().collect()
            }
            TimestepSpacing::Trailing => self.trailing(steps),
        }
    }

    /// `steps` timesteps that leave room for a last one at 0: the rule of DPM-Solver and UniPC.
    pub(super) fn visited_before_zero(&self, steps: usize) -> Vec<f64> {
        let trained = self.num_train_timesteps;
        let mut timesteps: Vec<f64> =
            match self.timestep_spacing.unwrap_or(TimestepSpacing::Linspace) {
                TimestepSpacing::Leading => {
                    let ratio = trained / (steps + 1);
                    (0..=steps).rev().map(|i| (i * ratio + self.steps_offset) as f64).collect()
                }
                TimestepSpacing::Linspace => linspace(0.0, (trained - 1) as f64, steps + 1)
                    .into_iter()
                    .rev()
                    .map(f64::round_ties_even)
                    .collect(),
                TimestepSpacing::Trailing => return self.trailing(steps),
            };
        timesteps.truncate(steps);
        timesteps
    }

    fn trailing(&self, steps: usize) -> Vec<f64> {
        let trained = self.num_train_timesteps as f64;
        // numpy's `arange` steps by what is left of the ratio after one rounding, and that decides ties.
        let step = (trained - trained / steps as f64) - trained;
        (0..steps).map(|i| (trained + i as f64 * step).round_ties_even() - 1.0).collect()
    }

    /// Refuses values that are wrong for every family.
    pub(super) fn check(&self) -> Result<(), String> {
        let invalid = Err;
        if let Some(betas) = &self.trained_betas
            && betas.len() != self.num_train_timesteps
        {
            return invalid(format!(
                "{} trained_betas for {} timesteps",
                betas.len(),
                self.num_train_timesteps
            ));
        }
        if self.num_train_timesteps < 2 {
            return invalid(format!("num_train_timesteps is {}", self.num_train_timesteps));
        }
        if self.thresholding {
            return invalid("thresholding is not supported".into());
        }
        Ok(())
    }

    fn betas(&self) -> Vec<f64> {
        let steps = self.num_train_timesteps;
        if let Some(betas) = &self.trained_betas {
            return betas.clone();
        }
        match self.beta_schedule {
            BetaSchedule::Linear => linspace(self.beta_start, self.beta_end, steps),
            BetaSchedule::ScaledLinear => {
                linspace(self.beta_start.sqrt(), self.beta_end.sqrt(), steps)
                    .into_iter()
                    .map(|root| root * root)
                    .collect()
            }
            BetaSchedule::SquaredcosCapV2 => {
                let alpha_bar =
                    |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                let at = |i: usize| alpha_bar(i as f64 / steps as f64);
                (0..steps).map(|i| (1.0 - at(i + 1) / at(i)).min(0.999)).collect()
            }
        }
    }
}

/// `count` numbers from `start` to `end`, both included; a single one is `start`.
pub(super) fn linspace(start: f64, end: f64, count: usize) -> Vec<f64> {
    let step = if count > 1 { (end - start) / (count - 1) as f64 } else { 0.0 };
    (0..count)
        .map(|i| if i > 0 && i + 1 == count { end } else { start + step * i as f64 })
        .collect()
}

/// Shifts and scales √ᾱ so that the last timestep is pure noise (Lin et al., arXiv:2305.08891, algorithm 1).
fn zero_terminal_snr(alphas_cumprod: &[f64]) -> Vec<f64> {
    let roots: Vec<f64> = alphas_cumprod.iter().map(|alpha| alpha.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    roots.iter().map(|root| ((root - last) * first / (first - last)).powi(2)).collect()
}

/// `x₀` and `ε` of a sample `√ᾱ x₀ + √(1−ᾱ) ε`, as factors of the model's output and of the sample.
pub(super) struct Parts {
    pub(super) x0: (f64, f64),
    pub(super) epsilon: (f64, f64),
}

impl PredictionType {
    /// How x₀ and ε follow from the model's output (first factor) and the sample (second factor) at `ᾱ`.
    pub(super) fn parts(self, alpha: f64) -> Parts {
        let (signal, noise) = (alpha.sqrt(), (1.0 - alpha).sqrt());
        match self {
            Self::Epsilon => Parts { x0: (-noise / signal, 1.0 / signal), epsilon: (1.0, 0.0) },
            Self::VPrediction => Parts { x0: (-noise, signal), epsilon: (signal, noise) },
            Self::Sample => Parts { x0: (1.0, 0.0), epsilon: (-signal / noise, 1.0 / noise) },
        }
    }
}
