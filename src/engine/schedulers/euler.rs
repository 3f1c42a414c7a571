//! Euler's method on the probability-flow equation, plain and ancestral (Karras et al., arXiv:2206.00364, algorithm 2
//! without churn; ancestral as in k-diffusion). Samples are `x₀ + σ ε`.

use super::schedule::{PredictionType, SchedulerConfig, TimestepSpacing};
use super::scheduler::{Rule, Scheduler, combine};

/// Whether noise is added between steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Deterministic,
    Ancestral,
}

struct Euler {
    prediction_type: PredictionType,
    /// One more than steps; the last is 0.
    sigmas: Vec<f64>,
    kind: Kind,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize, kind: Kind) -> Scheduler {
    let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace);
    // diffusers keeps these in f32, and the model is called with what comes of it.
    let timesteps: Vec<f32> =
        config.visited(steps, TimestepSpacing::Linspace).into_iter().map(|t| t as f32).collect();
    let exact: Vec<f64> = timesteps.iter().map(|&t| f64::from(t)).collect();
    let mut sigmas = config.sigmas_at(&exact);
    let largest = sigmas.iter().copied().fold(0.0, f64::max);
    sigmas.push(0.0);
    let init_noise_sigma = match spacing {
        TimestepSpacing::Linspace | TimestepSpacing::Trailing => largest,
        TimestepSpacing::Leading => (largest * largest + 1.0).sqrt(),
    };
    Scheduler {
        timesteps,
        init_noise_sigma: init_noise_sigma as f32,
        skipped: 0,
        prediction_type: config.prediction_type,
        rule: Box::new(Euler { prediction_type: config.prediction_type, sigmas, kind }),
    }
}

impl Rule for Euler {
    fn scale_model_input(&self, step: usize, sample: &[f32]) -> Vec<f32> {
        let factor = (self.sigmas[step].powi(2) + 1.0).sqrt().recip();
        sample.iter().map(|&x| (f64::from(x) * factor) as f32).collect()
    }

    fn needs_noise(&self, _step: usize) -> bool {
        self.kind == Kind::Ancestral
    }

    fn noise_parts(&self, step: usize) -> (f64, f64) {
        (1.0, self.sigmas[step])
    }

    fn step(&mut self, step: usize, model_pred: &[f32], sample: &mut [f32], noise: Option<&[f32]>) {
        let (sigma, next) = (self.sigmas[step], self.sigmas[step + 1]);
        let square = sigma * sigma + 1.0;
        // x₀ as factors of the model's output and of the sample.
        let (of_pred, of_sample) = match self.prediction_type {
            PredictionType::Epsilon => (-sigma, 1.0),
            PredictionType::VPrediction => (-sigma / square.sqrt(), 1.0 / square),
            PredictionType::Sample => (1.0, 0.0),
        };
        let (down, up) = match self.kind {
            Kind::Deterministic => (next, 0.0),
            Kind::Ancestral => {
                let up =
                    (next * next * (sigma * sigma - next * next) / (sigma * sigma)).max(0.0).sqrt();
                ((next * next - up * up).max(0.0).sqrt(), up)
            }
        };
        // x + (x − x₀) / σ · (σ_down − σ)
        let slope = (down - sigma) / sigma;
        let before = sample.to_vec();
        let mut terms: Vec<(f64, &[f32])> =
            vec![(1.0 + slope * (1.0 - of_sample), &before), (-slope * of_pred, model_pred)];
        terms.extend(noise.map(|noise| (up, noise)));
        combine(sample, &terms);
    }
}
