//! UniPC of second order (Zhao et al., arXiv:2302.04867, algorithms 5 and 6, with B₂(h) = eʰ − 1).
//!
//! Each step first corrects the sample that the last step predicted, with the model's output there, and then predicts
//! the next one. Notation as in the paper for predictions of x₀: `h = λ_t − λ_s`, `hh = −h`.

use super::dpm_solver::{lambda, noise_part, predicted_x0, signal_part};
use super::schedule::{PredictionType, SchedulerConfig};
use super::scheduler::{Rule, Scheduler, combined};

const ORDER: usize = 2;

struct UniPc {
    prediction_type: PredictionType,
    /// One more than steps; the last is 0.
    sigmas: Vec<f64>,
    /// Predictions of x₀ of earlier steps, latest last; at most [`ORDER`].
    predictions: Vec<Vec<f32>>,
    /// The sample that the last step started from, and the order it used.
    last: Option<(Vec<f32>, usize)>,
}

pub(super) fn plan(config: &SchedulerConfig, steps: usize) -> Scheduler {
    let timesteps = config.visited_before_zero(steps);
    let mut sigmas = config.sigmas_at(&timesteps);
    sigmas.push(0.0);
    Scheduler {
        timesteps: timesteps.iter().map(|&t| t as f32).collect(),
        init_noise_sigma: 1.0,
        skipped: 0,
        prediction_type: config.prediction_type,
        rule: Box::new(UniPc {
            prediction_type: config.prediction_type,
            sigmas,
            predictions: Vec::new(),
            last: None,
        }),
    }
}

impl Rule for UniPc {
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
        let x0 = predicted_x0(self.prediction_type, self.sigmas[step], model_pred, sample);
        let corrected = match &self.last {
            Some((start, order)) => self.correct(step, start, *order, &x0),
            None => sample.to_vec(),
        };
        self.predictions.push(x0);
        if self.predictions.len() > ORDER {
            self.predictions.remove(0);
        }
        let left = self.sigmas.len() - 1 - step;
        let order = ORDER.min(left).min(self.predictions.len());
        let predicted = self.predict(step, &corrected, order);
        sample.copy_from_slice(&predicted);
        self.last = Some((corrected, order));
    }
}

impl UniPc {
    /// UniP: from the sample at `step` to the next noise level.
    fn predict(&self, step: usize, sample: &[f32], order: usize) -> Vec<f32> {
        let interval = Interval::new(self.sigmas[step], self.sigmas[step + 1]);
        let current = &self.predictions[self.predictions.len() - 1];
        let mut terms: Vec<(f64, &[f32])> =
            vec![(interval.of_sample, sample), (interval.of_x0, current)];
        if order == 2 {
            let before = &self.predictions[self.predictions.len() - 2];
            let ratio = interval.ratio(self.sigmas[step - 1]);
            // D₁ = (m₁ − m₀) / r₁ with the weight ½
            let factor = interval.of_difference * 0.5 / ratio;
            terms.extend([(factor, before.as_slice()), (-factor, current.as_slice())]);
        }
        combined(&terms)
    }

    /// UniC: the sample at `step` again, from where the last step started, now knowing `x0` here.
    fn correct(&self, step: usize, start: &[f32], order: usize, x0: &[f32]) -> Vec<f32> {
        let interval = Interval::new(self.sigmas[step - 1], self.sigmas[step]);
        let current = &self.predictions[self.predictions.len() - 1];
        let mut terms: Vec<(f64, &[f32])> =
            vec![(interval.of_sample, start), (interval.of_x0, current)];
        let mut of_change = 0.5;
        if order == 2 {
            let before = &self.predictions[self.predictions.len() - 2];
            let ratio = interval.ratio(self.sigmas[step - 2]);
            let (b1, b2) = interval.moments();
            // [1 1; r₁ 1] ρ = b
            let of_history = (b1 - b2) / (1.0 - ratio);
            of_change = b1 - of_history;
            let factor = interval.of_difference * of_history / ratio;
            terms.extend([(factor, before.as_slice()), (-factor, current.as_slice())]);
        }
        let factor = interval.of_difference * of_change;
        terms.extend([(factor, x0), (-factor, current.as_slice())]);
        combined(&terms)
    }
}

/// The coefficients of one step in λ.
struct Interval {
    from: f64,
    h: f64,
    of_sample: f64,
    /// `−α (e^{−h} − 1)`: the weight of x₀ in the exponential Euler step.
    of_x0: f64,
    /// `−α B(h)`: what differences of x₀ are multiplied by.
    of_difference: f64,
}

impl Interval {
    fn new(from: f64, to: f64) -> Self {
        let h = lambda(to) - lambda(from);
        let of_x0 = -signal_part(to) * (-h).exp_m1();
        Self { from, h, of_sample: noise_part(to) / noise_part(from), of_x0, of_difference: of_x0 }
    }

    /// `r = (λ_earlier − λ_from) / h`.
    fn ratio(&self, earlier: f64) -> f64 {
        (lambda(earlier) - lambda(self.from)) / self.h
    }

    /// `b₁` and `b₂` of the paper's equation for the weights ρ.
    fn moments(&self) -> (f64, f64) {
        let hh = -self.h;
        let expm1 = hh.exp_m1();
        let first = expm1 / hh - 1.0;
        let second = first / hh - 0.5;
        (first / expm1, 2.0 * second / expm1)
    }
}
