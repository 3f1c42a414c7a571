//! AdamW and gradient clipping, as PyTorch defines them.

use candle_core::{Result, Tensor};

use crate::engine::ops::{self, AdamWStep};

/// Decoupled weight decay after Loshchilov and Hutter, with the state of one parameter.
///
/// `θ ← θ (1 − ηλ) − η · m̂ / (√v̂ + ε)` with the bias-corrected moments `m̂` and `v̂` of the gradient.
pub struct AdamW {
    betas: (f64, f64),
    epsilon: f64,
    weight_decay: f64,
    first_moment: Tensor,
    second_moment: Tensor,
    step: i32,
}

impl AdamW {
    /// Starts with zero moments for a parameter of the shape of `parameter`; β = (0.9, 0.999) and ε = 1e-8.
    pub fn new(parameter: &Tensor, weight_decay: f64) -> Result<Self> {
        Ok(Self {
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            weight_decay,
            first_moment: parameter.zeros_like()?,
            second_moment: parameter.zeros_like()?,
            step: 0,
        })
    }

    /// Returns the parameter after one step along `gradient_scale · gradient` at the rate `learning_rate`.
    pub fn step(
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
pub fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a Tensor>) -> Result<f64> {
    let squares = gradients.into_iter().map(ops::sum_of_squares).collect::<Result<Vec<_>>>()?;
    Ok(squares.iter().sum::<f64>().sqrt())
}

/// The factor that brings gradients of global norm `norm` down to at most `max_norm`.
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}
