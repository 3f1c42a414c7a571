//! Optimiser steps in candle's tensors.

use candle_core::{DType, Result, Tensor};

use super::step::AdamWStep;

pub(super) fn adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    moments: [&Tensor; 2],
    step: AdamWStep,
) -> Result<[Tensor; 3]> {
    let (beta1, beta2) = step.betas;
    let gradient = (gradient * step.gradient_scale)?;
    let first = ((moments[0] * beta1)? + (&gradient * (1.0 - beta1))?)?;
    let second = ((moments[1] * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
    let direction = (&first / ((second.sqrt()? * step.second_scale)? + step.epsilon)?)?;
    Ok([((parameter * step.kept)? - (direction * step.rate)?)?, first, second])
}

pub(super) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    Ok(f64::from(x.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?))
}
