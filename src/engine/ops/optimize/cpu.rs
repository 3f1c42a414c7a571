//! Optimiser steps on the CPU.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::step::AdamWStep;
use crate::engine::ops::buffer::{filled, tensor, values};
use crate::engine::ops::math::sum_of;
use crate::engine::ops::simd::vectorized;

/// Values of one task.
const CHUNK: usize = 1 << 16;

pub(super) fn adamw(
    parameter: &Tensor,
    gradient: &Tensor,
    moments: [&Tensor; 2],
    step: AdamWStep,
) -> Result<[Tensor; 3]> {
    let inputs = [parameter, gradient, moments[0], moments[1]].map(Tensor::contiguous);
    let [parameter, gradient, first, second] = inputs;
    let (parameter, gradient, first, second) = (parameter?, gradient?, first?, second?);
    let shape = parameter.shape().clone();
    let (x, g) = (values(&parameter)?, values(&gradient)?);
    let (m, v) = (values(&first)?, values(&second)?);
    let (x, g, m, v): (&[f32], &[f32], &[f32], &[f32]) = (&x, &g, &m, &v);
    let mut to = [(); 3].map(|()| filled(x.len(), |_| {}));
    let [to_x, to_m, to_v] = &mut to;
    to_x.par_chunks_mut(CHUNK)
        .zip(to_m.par_chunks_mut(CHUNK))
        .zip(to_v.par_chunks_mut(CHUNK))
        .zip(x.par_chunks(CHUNK).zip(g.par_chunks(CHUNK)))
        .zip(m.par_chunks(CHUNK).zip(v.par_chunks(CHUNK)))
        .for_each(|((((x, m), v), (old, g)), (first, second))| {
            update([x, m, v], [old, g, first, second], step);
        });
    let [x, m, v] = to;
    Ok([tensor(x, &shape)?, tensor(m, &shape)?, tensor(v, &shape)?])
}

vectorized! {
    fn update(to: [&mut [f32]; 3], from: [&[f32]; 4], step: AdamWStep) {
        let ([x, m, v], [old, g, first, second]) = (to, from);
        let scale = step.gradient_scale as f32;
        let (beta1, beta2) = (step.betas.0 as f32, step.betas.1 as f32);
        let (rest1, rest2) = ((1.0 - step.betas.0) as f32, (1.0 - step.betas.1) as f32);
        let (rate, second_scale) = (step.rate as f32, step.second_scale as f32);
        let (epsilon, kept) = (step.epsilon as f32, step.kept as f32);
        let state = m.iter_mut().zip(v).zip(first.iter().zip(second));
        for (((x, old), g), ((m, v), (first, second))) in x.iter_mut().zip(old).zip(g).zip(state) {
            let g = g * scale;
            *m = beta1 * first + rest1 * g;
            *v = beta2 * second + rest2 * (g * g);
            *x = kept * old - rate * (*m / (v.sqrt() * second_scale + epsilon));
        }
    }
}

pub(super) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    let x = x.contiguous()?;
    let x = values(&x)?;
    let x: &[f32] = &x;
    let chunks: Vec<f64> = x.par_chunks(CHUNK).map(|x| f64::from(squares(x))).collect();
    Ok(chunks.iter().sum())
}

vectorized! {
    fn squares(x: &[f32]) -> f32 {
        sum_of(x, |x| x * x)
    }
}
