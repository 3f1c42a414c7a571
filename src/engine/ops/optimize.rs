//! An optimizer's step over all values of a parameter, in one pass.

mod candle;
mod cpu;
mod step;

use candle_core::{Result, Tensor};

pub use self::step::AdamWStep;
use super::buffer::has_kernels;
use super::shape::same;

/// `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`, `θ ← kept · θ − rate · m / (second_scale · √v + ε)`.
///
/// All of one shape; returns `[θ, m, v]`.
pub fn adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    moments: [&Tensor; 2],
    step: AdamWStep,
) -> Result<[Tensor; 3]> {
    for other in [gradient, moments[0], moments[1]] {
        same(parameter, other)?;
    }
    match has_kernels(parameter) {
        true => cpu::adamw(parameter, gradient, moments, step),
        false => candle::adamw(parameter, gradient, moments, step),
    }
}

/// The sum of all squares. It does not depend on the number of threads.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    match has_kernels(x) {
        true => cpu::sum_of_squares(x),
        false => candle::sum_of_squares(x),
    }
}
