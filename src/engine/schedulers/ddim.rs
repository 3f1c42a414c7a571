//! Denoising diffusion implicit models (Song et al., arXiv:2010.02502, equation 12).

use super::schedule::{PredictionType, SchedulerConfig, TimestepSpacing};
use super::scheduler::{Rule, Scheduler, combine, combined};

struct Ddim {
    prediction_type: PredictionType,
    /// `(ᾱ_t, ᾱ_prev)` of each step.
    alphas: Vec<(f64, f64)>,
    clip: Option<f64>,
    eta: f64,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize, eta: f64) -> Scheduler {
    let timesteps: Vec<f64> = config
        .visited(steps, TimestepSpacing::Leading)
        .into_iter()
        .map(f64::round_ties_even)
        .collect();
    let alphas_cumprod = config.alphas_cumprod();
    let last = if config.set_alpha_to_one.unwrap_or(true) { 1.0 } else { alphas_cumprod[0] };
    let stride = (config.num_train_timesteps / steps) as i64;
    let alphas = timesteps
        .iter()
        .map(|&t| {
            let previous = usize::try_from(t as i64 - stride).ok();
            (alphas_cumprod[t as usize], previous.map_or(last, |t| alphas_cumprod[t]))
        })
        .collect();
    let clip = config.clip_sample.unwrap_or(true).then_some(config.clip_sample_range);
    Scheduler {
        timesteps: timesteps.iter().map(|&t| t as f32).collect(),
        init_noise_sigma: 1.0,
        skipped: 0,
        prediction_type: config.prediction_type,
        rule: Box::new(Ddim { prediction_type: config.prediction_type, alphas, clip, eta }),
    }
}

impl Rule for Ddim {
    fn needs_noise(&self, _step: usize) -> bool {
        self.eta > 0.0
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
        let epsilon = combined(&[(parts.epsilon.0, model_pred), (parts.epsilon.1, sample)]);

        let variance = (1.0 - previous) / (1.0 - alpha) * (1.0 - alpha / previous);
        let sigma = self.eta * variance.max(0.0).sqrt();
        let direction = (1.0 - previous - sigma * sigma).max(0.0).sqrt();
        let mut terms: Vec<(f64, &[f32])> = vec![(previous.sqrt(), &x0), (direction, &epsilon)];
        terms.extend(noise.map(|noise| (sigma, noise)));
        combine(sample, &terms);
    }
}
