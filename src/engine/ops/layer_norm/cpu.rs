//! Layer normalisation on the CPU.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::engine::ops::buffer::{filled, tensor, values};
use crate::engine::ops::math::{sum_of, sum_of_pairs};
use crate::engine::ops::normalization::Affine;
use crate::engine::ops::simd::vectorized;

/// Rows of one task.
const ROWS: usize = 32;

pub(super) fn forward(x: &Tensor, affine: &Affine, eps: f32) -> Result<Tensor> {
    let Affine { weights, biases, .. } = affine;
    let (shape, rows) = (x.shape(), ROWS * weights.len());
    let x = values(x)?;
    let x: &[f32] = &x;
    let y = filled(x.len(), |y| {
        y.par_chunks_mut(rows)
            .zip(x.par_chunks(rows))
            .for_each(|(y, x)| normalize_rows(x, y, weights, biases, eps));
    });
    tensor(y, shape)
}

/// The gradient of `x` from that of the result, plus what it is `so_far`.
pub(super) fn backward(
    x: &Tensor,
    dy: &Tensor,
    so_far: Option<&Tensor>,
    affine: &Affine,
    eps: f32,
) -> Result<Tensor> {
    let weights = &affine.weights;
    let (shape, rows) = (x.shape(), ROWS * weights.len());
    let so_far = so_far.map(|so_far| so_far.contiguous()).transpose()?;
    let so_far = so_far.as_ref().map(values).transpose()?;
    let so_far: Option<&[f32]> = so_far.as_deref();
    let (x, dy) = (values(x)?, values(dy)?);
    let (x, dy): (&[f32], &[f32]) = (&x, &dy);
    let dx = filled(x.len(), |dx| {
        let parts = dx.par_chunks_mut(rows).zip(x.par_chunks(rows)).zip(dy.par_chunks(rows));
        parts.enumerate().for_each(|(index, ((dx, x), dy))| {
            let so_far = so_far.map(|so_far| &so_far[index * rows..]);
            rows_gradient(x, dy, dx, so_far, weights, eps);
        });
    });
    tensor(dx, shape)
}

/// Mean and `1 / √(var + ε)`.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum_of(x, |x| x) / count;
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

vectorized! {
    fn normalize_rows(x: &[f32], y: &mut [f32], weights: &[f32], biases: &[f32], eps: f32) {
        let dim = weights.len();
        for (y, x) in y.chunks_exact_mut(dim).zip(x.chunks_exact(dim)) {
            let (mean, rstd) = moments(x, eps);
            for (((y, &x), &weight), &bias) in y.iter_mut().zip(x).zip(weights).zip(biases) {
                *y = (x - mean) * rstd * weight + bias;
            }
        }
    }
}

vectorized! {
    fn rows_gradient(x: &[f32], dy: &[f32], dx: &mut [f32], so_far: Option<&[f32]>, weights: &[f32], eps: f32) {
        let dim = weights.len();
        let rows = dx.chunks_exact_mut(dim).zip(x.chunks_exact(dim)).zip(dy.chunks_exact(dim));
        for (index, ((dx, x), dy)) in rows.enumerate() {
            let (mean, rstd) = moments(x, eps);
            for ((dx, &dy), &weight) in dx.iter_mut().zip(dy).zip(weights) {
                *dx = weight * dy;
            }
            let mean_g = sum_of(dx, |g| g) / dim as f32;
            let mean_gx = sum_of_pairs(dx, x, |g, x| g * (x - mean) * rstd) / dim as f32;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = rstd * (*dx - mean_g - (x - mean) * rstd * mean_gx);
            }
            if let Some(so_far) = so_far {
                dx.iter_mut().zip(&so_far[index * dim..]).for_each(|(dx, so_far)| *dx += so_far);
            }
        }
    }
}
