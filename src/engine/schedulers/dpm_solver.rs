//! DPM-Solver++ of second order, multistep (Lu et al., arXiv:2211.01095, algorithm 2).
//!
//! With `α = 1/√(σ²+1)` and `λ = −ln σ`, the solver advances predictions of x₀ in λ.

use super::schedule::{PredictionType, SchedulerConfig, linspace};
use super::scheduler::{Rule, Scheduler, combine, combined};

/// Which noise levels are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Levels {
    /// Those of evenly spaced timesteps.
    OfTimesteps,
    /// Karras et al., arXiv:2206.00364, equation 5 with ρ = 7.
    Karras,
}

struct DpmSolver {
    prediction_type: PredictionType,
    /// One more than steps; the last is 0.
    sigmas: Vec<f64>,
    /// The prediction of x₀ of the step before.
    previous: Option<Vec<f32>>,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize, levels: Levels) -> Scheduler {
    let (timesteps, mut sigmas) = match levels {
        Levels::OfTimesteps => {
            let timesteps = config.visited_before_zero(steps);
            let sigmas = config.sigmas_at(&timesteps);
            (timesteps, sigmas)
        }
        Levels::Karras => {
            let trained = config.sigmas();
            let sigmas = karras(trained[0], trained[trained.len() - 1], steps);
            (
                sigmas
                    .iter()
                    .map(|&sigma| timestep_of(sigma, &trained).round_ties_even())
                    .collect(),
                sigmas,
            )
        }
    };
    sigmas.push(0.0);
    Scheduler {
        timesteps: timesteps.iter().map(|&t| t as f32).collect(),
        init_noise_sigma: 1.0,
        skipped: 0,
        prediction_type: config.prediction_type,
        rule: Box::new(DpmSolver {
            prediction_type: config.prediction_type,
            sigmas,
            previous: None,
        }),
    }
}

impl Rule for DpmSolver {
    fn noise_parts(&self, step: usize) -> (f64, f64) {
        (signal_part(self.sigmas[step]), noise_part(self.sigmas[step]))
    }

    fn step(
        &mut self,
        step: usize,
        model_pred: &[f32],
        sample: &mut [f32],
        _noise: Option<&[f32]>,
    ) {
        let (sigma, next) = (self.sigmas[step], self.sigmas[step + 1]);
        let x0 = predicted_x0(self.prediction_type, sigma, model_pred, sample);
        let steps = self.sigmas.len() - 1;
        let last = step + 1 == steps;

        let h = lambda(next) - lambda(sigma);
        let of_sample = noise_part(next) / noise_part(sigma);
        let of_x0 = -signal_part(next) * (-h).exp_m1();
        let before = sample.to_vec();
        match self.previous.take() {
            // The last step, to σ = 0, is of first order: λ is infinite there.
            Some(previous) if !last => {
                let ratio = (lambda(sigma) - lambda(self.sigmas[step - 1])) / h;
                let correction = 0.5 * of_x0 / ratio;
                let terms: [(f64, &[f32]); 3] =
                    [(of_sample, &before), (of_x0 + correction, &x0), (-correction, &previous)];
                combine(sample, &terms);
            }
            Some(_) | None => combine(sample, &[(of_sample, &before), (of_x0, &x0)]),
        }
        self.previous = Some(x0);
    }
}

/// `α(σ)`: how much signal is in a sample of unit variance.
pub(super) fn signal_part(sigma: f64) -> f64 {
    (sigma * sigma + 1.0).sqrt().recip()
}

/// `σ α(σ)`: how much noise is in it.
pub(super) fn noise_part(sigma: f64) -> f64 {
    sigma * signal_part(sigma)
}

/// Half the logarithm of the signal-to-noise ratio; infinite at σ = 0.
pub(super) fn lambda(sigma: f64) -> f64 {
    -sigma.ln()
}

/// x₀ of a sample `α x₀ + σ α ε`.
pub(super) fn predicted_x0(
    prediction: PredictionType,
    sigma: f64,
    model_pred: &[f32],
    sample: &[f32],
) -> Vec<f32> {
    let parts = prediction.parts(signal_part(sigma).powi(2));
    combined(&[(parts.x0.0, model_pred), (parts.x0.1, sample)])
}

fn karras(smallest: f64, largest: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (from, to) = (largest.powf(1.0 / RHO), smallest.powf(1.0 / RHO));
    linspace(0.0, 1.0, steps)
        .into_iter()
        .map(|ramp| (from + ramp * (to - from)).powf(RHO))
        .collect()
}

/// The timestep whose σ it is, between timesteps linear in ln σ.
fn timestep_of(sigma: f64, trained: &[f64]) -> f64 {
    let log_sigma = sigma.max(1e-10).ln();
    let low = trained
        .iter()
        .rposition(|&known| known.ln() <= log_sigma)
        .unwrap_or(0)
        .min(trained.len() - 2);
    let (from, to) = (trained[low].ln(), trained[low + 1].ln());
    let weight = ((from - log_sigma) / (from - to)).clamp(0.0, 1.0);
    low as f64 + weight
}
