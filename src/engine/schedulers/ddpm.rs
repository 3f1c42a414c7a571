//! Denoising diffusion probabilistic models (Ho et al., arXiv:2006.11239, equations 6 and 7).

use super::schedule::{PredictionType, SchedulerConfig, TimestepSpacing};
use super::scheduler::{Rule, Scheduler, combine, combined};

struct Ddpm {
    prediction_type: PredictionType,
    timesteps: Vec<f64>,
    /// `(ᾱ_t, ᾱ_prev)` of each step.
    alphas: Vec<(f64, f64)>,
    clip: Option<f64>,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Scheduler {
    let timesteps: Vec<f64> = config
        .visited(steps, TimestepSpacing::Leading)
        .into_iter()
        .map(f64::round_ties_even)
        .collect();
    let alphas_cumprod = config.alphas_cumprod();
    let alpha = |t: f64| alphas_cumprod[t as usize];
    let alphas = (0..steps)
        .map(|i| (alpha(timesteps[i]), timesteps.get(i + 1).map_or(1.0, |&next| alpha(next))))
        .collect();
    let clip = config.clip_sample.unwrap_or(true).then_some(config.clip_sample_range);
    Scheduler {
        timesteps: timesteps.iter().map(|&t| t as f32).collect(),
        init_noise_sigma: 1.0,
        skipped: 0,
        prediction_type: config.prediction_type,
        rule: Box::new(Ddpm { prediction_type: config.prediction_type, timesteps, alphas, clip }),
    }
}

impl Rule for Ddpm {
    fn needs_noise(&self, step: usize) -> bool {
        self.timesteps[step] > 0.0
    }

    fn noise_parts(&self, step: usize) -> (f64, f64) {
        let (alpha, _) = self.alphas[step];
        (alpha.sqrt(), (1.0 - alpha).sqrt())
    }

    fn step(&mut self, step: usize, model_pred: &[f32], sample: &mut [f32], noise: Option<&[f32]>) {
        let (alpha, previous) = self.alphas[step];
        let parts = self.prediction_type.parts(alpha);
        let mut x0 = combined(&[(parts.x0.0, model_pred), (parts.x0.1, sample)]);
        if let Some(range) = self.clip {
            x0.iter_mut().for_each(|value| *value = value.clamp(-range as f32, range as f32));
        }

        let step_alpha = alpha / previous;
        let step_beta = 1.0 - step_alpha;
        let of_x0 = previous.sqrt() * step_beta / (1.0 - alpha);
        let of_sample = step_alpha.sqrt() * (1.0 - previous) / (1.0 - alpha);
        let variance = ((1.0 - previous) / (1.0 - alpha) * step_beta).max(1e-20);
        let before = sample.to_vec();
        let mut terms: Vec<(f64, &[f32])> = vec![(of_x0, &x0), (of_sample, &before)];
        terms.extend(noise.map(|noise| (variance.sqrt(), noise)));
        combine(sample, &terms);
    }
}
