//! Pseudo numerical methods (Liu et al., arXiv:2202.09778) in the form that Stable Diffusion was published with:
//! linear multistep only, its first step taken twice.

use super::schedule::{PredictionType, SchedulerConfig, TimestepSpacing};
use super::scheduler::{Rule, Scheduler, combine, combined};
use crate::engine::error::{EngineError, Result};

struct Pndm {
    v_prediction: bool,
    alphas_cumprod: Vec<f64>,
    last_alpha: f64,
    timesteps: Vec<i64>,
    stride: i64,
    /// Earlier outputs of the model, latest last; at most four.
    answers: Vec<Vec<f32>>,
    /// The sample before the first step, which the second call takes again.
    first_sample: Vec<f32>,
}

/// Without its first `skipped` steps.
pub(super) fn plan(config: &SchedulerConfig, steps: usize, skipped: usize) -> Result<Scheduler> {
    let v_prediction = match config.prediction_type {
        PredictionType::Epsilon => false,
        PredictionType::VPrediction => true,
        PredictionType::Sample => {
            let text = "scheduler pndm does not know models that predict the sample: choose ddim";
            return Err(EngineError::InvalidInput(text.into()));
        }
    };
    let mut timesteps: Vec<i64> = config
        .visited(steps, TimestepSpacing::Leading)
        .into_iter()
        .skip(skipped)
        .map(|t| t.round_ties_even() as i64)
        .collect();
    if let Some(&second) = timesteps.get(1) {
        timesteps.insert(1, second);
    }
    let alphas_cumprod = config.alphas_cumprod();
    let last_alpha = if config.set_alpha_to_one.unwrap_or(false) { 1.0 } else { alphas_cumprod[0] };
    Ok(Scheduler {
        timesteps: timesteps.iter().map(|&t| t as f32).collect(),
        init_noise_sigma: 1.0,
        skipped: 0,
        prediction_type: config.prediction_type,
        rule: Box::new(Pndm {
            v_prediction,
            alphas_cumprod,
            last_alpha,
            timesteps,
            stride: (config.num_train_timesteps / steps) as i64,
            answers: Vec::new(),
            first_sample: Vec::new(),
        }),
    })
}

impl Rule for Pndm {
    fn noise_parts(&self, step: usize) -> (f64, f64) {
        let alpha = self.alpha(self.timesteps[step]);
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }

    fn step(
        &mut self,
        step: usize,
        model_pred: &[f32],
        sample: &mut [f32],
        _noise: Option<&[f32]>,
    ) {
        let timestep = self.timesteps[step];
        let (mut from, mut to) = (timestep, timestep - self.stride);
        if step == 1 {
            // The second call repairs the first step: same start, now with the slope at both ends.
            (from, to) = (timestep + self.stride, timestep);
            sample.copy_from_slice(&self.first_sample);
        } else {
            self.answers.push(model_pred.to_vec());
            if self.answers.len() > 4 {
                self.answers.remove(0);
            }
        }
        if step == 0 {
            self.first_sample = sample.to_vec();
        }
        let slope = match self.answers.as_slice() {
            [a] if step == 1 => combined(&[(0.5, model_pred), (0.5, a)]),
            [a] => a.clone(),
            [b, a] => combined(&[(1.5, a), (-0.5, b)]),
            [c, b, a] => combined(&[(23.0 / 12.0, a), (-16.0 / 12.0, b), (5.0 / 12.0, c)]),
            [d, c, b, a] => {
                combined(&[(55.0 / 24.0, a), (-59.0 / 24.0, b), (37.0 / 24.0, c), (-9.0 / 24.0, d)])
            }
            [] | [_, _, _, _, _, ..] => model_pred.to_vec(),
        };
        self.transfer(from, to, &slope, sample);
    }
}

impl Pndm {
    /// Equation 9 of the paper, from timestep `from` to `to`.
    fn transfer(&self, from: i64, to: i64, slope: &[f32], sample: &mut [f32]) {
        let alpha = self.alpha(from);
        let previous = self.alpha(to);
        let denominator =
            alpha * (1.0 - previous).sqrt() + (alpha * (1.0 - alpha) * previous).sqrt();
        let of_epsilon = -(previous - alpha) / denominator;
        let mut of_sample = (previous / alpha).sqrt();
        let mut of_slope = of_epsilon;
        if self.v_prediction {
            // ε = √ᾱ v + √(1−ᾱ) x
            of_sample += of_epsilon * (1.0 - alpha).sqrt();
            of_slope *= alpha.sqrt();
        }
        let before = sample.to_vec();
        combine(sample, &[(of_sample, &before), (of_slope, slope)]);
    }

    fn alpha(&self, timestep: i64) -> f64 {
        let last = self.alphas_cumprod.len() - 1;
        usize::try_from(timestep).map_or(self.last_alpha, |t| self.alphas_cumprod[t.min(last)])
    }
}
