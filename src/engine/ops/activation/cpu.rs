//! Activations on the CPU.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::function::Function;
use crate::engine::ops::buffer::{filled, tensor, values};
use crate::engine::ops::math::{normal, sigmoid};
use crate::engine::ops::shape::same;
use crate::engine::ops::simd::vectorized;

/// Values of one task.
const CHUNK: usize = 8192;

pub(super) fn forward(function: Function, x: &Tensor) -> Result<Tensor> {
    let values = values(x)?;
    let values: &[f32] = &values;
    let y = filled(values.len(), |y| {
        let parts = y.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
        parts.for_each(|(y, x)| {
            y.copy_from_slice(x);
            apply(function, y);
        });
    });
    tensor(y, x.shape())
}

/// Replaces some values by their function.
pub(in crate::engine::ops) fn apply(function: Function, values: &mut [f32]) {
    match function {
        Function::Silu => silu(values),
        Function::Gelu => gelu(values),
        Function::QuickGelu => quick_gelu(values),
    }
}

pub(super) fn backward(function: Function, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let apply = match function {
        Function::Silu => silu_gradient,
        Function::Gelu => gelu_gradient,
        Function::QuickGelu => quick_gelu_gradient,
    };
    same(x, dy)?;
    let shape = x.shape();
    let (x, dy) = (values(x)?, values(dy)?);
    let (x, dy): (&[f32], &[f32]) = (&x, &dy);
    let dx = filled(x.len(), |dx| {
        let parts = dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
        parts.for_each(|((dx, x), dy)| apply(x, dy, dx));
    });
    tensor(dx, shape)
}

vectorized! {
    fn silu(values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x *= sigmoid(*x));
    }
}

vectorized! {
    fn silu_gradient(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let s = sigmoid(x);
            *dx = dy * s * (1.0 + x * (1.0 - s));
        }
    }
}

vectorized! {
    fn gelu(values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x *= normal(*x).0);
    }
}

vectorized! {
    fn gelu_gradient(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let (cdf, pdf) = normal(x);
            *dx = dy * (cdf + x * pdf);
        }
    }
}

vectorized! {
    fn quick_gelu(values: &mut [f32]) {
        values.iter_mut().for_each(|x| *x *= sigmoid(1.702 * *x));
    }
}

vectorized! {
    fn quick_gelu_gradient(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let s = sigmoid(1.702 * x);
            *dx = dy * s * (1.0 + 1.702 * x * (1.0 - s));
        }
    }
}
