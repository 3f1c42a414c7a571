//! AdamW and gradient clipping, as PyTorch defines them.

use candle_core::{Result, Tensor};

use crate::engine::ops::{self, AdamWStep};

/// Decoupled weight decay after Loshchilov and Hutter, with the state of one parameter.
///
/// `θ ← θ (1 − ηλ) − η · m̂ / (√v̂ + ε)` with the bias-corrected moments `m̂` and `v̂` of the gradient.
pub(super) struct AdamW {
    betas: (f64, f64),
    epsilon: f64,
    weight_decay: f64,
    first_moment: Tensor,
    second_moment: Tensor,
    step: i32,
}

impl AdamW {
    /// Starts with zero moments for a parameter of the shape of `parameter`; β = (0.9, 0.999) and ε = 1e-8.
    pub(super) fn new(parameter: &Tensor, weight_decay: f64) -> Result<Self> {
        let moments = [parameter.zeros_like()?, parameter.zeros_like()?];
        Ok(Self::resumed(moments, 0, weight_decay))
    }

    /// Goes on after `step` steps from the first and second moment.
    pub(super) fn resumed(moments: [Tensor; 2], step: usize, weight_decay: f64) -> Self {
        let [first_moment, second_moment] = moments;
        let step = i32::try_from(step).unwrap_or(i32::MAX);
        let (betas, epsilon) = ((0.9, 0.999), 1e-8);
        Self { betas, epsilon, weight_decay, first_moment, second_moment, step }
    }

    /// The first and the second moment of the gradient.
    pub(super) fn moments(&self) -> [&Tensor; 2] {
        [&self.first_moment, &self.second_moment]
    }

    /// Returns the parameter after one step along `gradient_scale · gradient` at the rate `learning_rate`.
    pub(super) fn step(
        &mut self,
        parameter: &Tensor,
        gradient: &Tensor,
        gradient_scale: f64,
        learning_rate: f64,
    ) -> Result<Tensor> {
        let (beta1, beta2) = self.betas;
        self.step += 1;
        let step = AdamWStep {
            gradient_scale,
            betas: self.betas,
            rate: learning_rate / (1.0 - beta1.powi(self.step)),
            second_scale: (1.0 - beta2.powi(self.step)).sqrt().recip(),
            epsilon: self.epsilon,
            kept: 1.0 - learning_rate * self.weight_decay,
        };
        let moments = [&self.first_moment, &self.second_moment];
        let [parameter, first, second] = ops::adamw(parameter, gradient, moments, step)?;
        (self.first_moment, self.second_moment) = (first, second);
        Ok(parameter)
    }
}

/// The global L2 norm of several gradients.
pub(super) fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a Tensor>) -> Result<f64> {
    let squares = gradients.into_iter().map(ops::sum_of_squares).collect::<Result<Vec<_>>>()?;
    Ok(squares.iter().sum::<f64>().sqrt())
}

/// The factor that brings gradients of global norm `norm` down to at most `max_norm`.
pub(super) fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}
