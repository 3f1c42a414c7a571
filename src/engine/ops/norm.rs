//! Normalisation with frozen scale and shift.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{applies, filled, sigmoid, sum_of, sum_of_pairs, values, vectorized};

/// Normalises groups of channels of an image, then scales and shifts each channel.
///
/// `y = w x̂ + b` with `x̂ = (x − mean) / √(var + ε)` over a group's channels and pixels, then SiLU where asked for.
/// With `g = w dy` (after SiLU's own derivative), `dx = (g − mean g − x̂ mean(g x̂)) / √(var + ε)`.
#[derive(Clone)]
pub struct GroupNorm(Arc<Scale>);

/// Normalises the last dimension, then scales and shifts it; gradient as of [`GroupNorm`].
#[derive(Clone)]
pub struct LayerNorm(Arc<Scale>);

struct Scale {
    weight: Tensor,
    bias: Tensor,
    /// The same on the host, for the CPU.
    weights: Vec<f32>,
    biases: Vec<f32>,
    groups: usize,
    eps: f64,
}

impl Scale {
    fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Arc<Self>> {
        let host = |x: &Tensor| if applies(x) { x.to_vec1() } else { Ok(Vec::new()) };
        let (weights, biases) = (host(&weight)?, host(&bias)?);
        Ok(Arc::new(Self { weight, bias, weights, biases, groups, eps }))
    }
}

impl GroupNorm {
    /// - `weight`, `bias`: `(channels,)`
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Self> {
        Ok(Self(Scale::new(weight, bias, groups, eps)?))
    }

    /// `(batch, channels, height, width)` → the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if applies(x) {
            return x.contiguous()?.apply_op1(Normalize {
                scale: self.0.clone(),
                over: Over::Groups { silu: false },
            });
        }
        let shape = x.dims().to_vec();
        let flat = x.reshape((shape[0], self.0.groups, ()))?;
        let y = normalize_last_dim(&flat, self.0.eps)?.reshape(shape)?;
        y.broadcast_mul(&self.0.weight.reshape((1, (), 1, 1))?)?
            .broadcast_add(&self.0.bias.reshape((1, (), 1, 1))?)
    }

    /// [`Self::forward`] followed by SiLU, in one pass.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        if applies(x) {
            return x
                .contiguous()?
                .apply_op1(Normalize { scale: self.0.clone(), over: Over::Groups { silu: true } });
        }
        super::silu(&self.forward(x)?)
    }
}

impl LayerNorm {
    /// - `weight`, `bias`: `(dim,)`
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        Ok(Self(Scale::new(weight, bias, 1, eps)?))
    }

    /// `(…, dim)` → the same shape.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if applies(x) {
            return x
                .contiguous()?
                .apply_op1(Normalize { scale: self.0.clone(), over: Over::LastDim });
        }
        normalize_last_dim(x, self.0.eps)?
            .broadcast_mul(&self.0.weight)?
            .broadcast_add(&self.0.bias)
    }
}

fn normalize_last_dim(x: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)
}

/// What is normalised together.
#[derive(Clone, Copy)]
enum Over {
    Groups { silu: bool },
    LastDim,
}

/// The normalisation on candle's tape.
struct Normalize {
    scale: Arc<Scale>,
    over: Over,
}

/// Its gradient, from the input and the incoming gradient.
struct NormalizeBack {
    scale: Arc<Scale>,
    over: Over,
}

impl CustomOp1 for Normalize {
    fn name(&self) -> &'static str {
        "frozen-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let y = filled(x.len(), |y| {
            let Scale { weights, biases, groups, eps, .. } = &*self.scale;
            let (groups, eps) = (*groups, *eps as f32);
            match self.over {
                Over::Groups { silu } => {
                    let (pixels, per_group) = (pixels_of(layout), weights.len() / groups);
                    let size = per_group * pixels;
                    y.par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(
                        |(index, (y, x))| {
                            let first = index % groups * per_group;
                            let range = first..first + per_group;
                            normalize_group(
                                x,
                                y,
                                Channels {
                                    weights: &weights[range.clone()],
                                    biases: &biases[range],
                                    pixels,
                                    eps,
                                    silu,
                                },
                            );
                        },
                    );
                }
                Over::LastDim => {
                    let dim = weights.len();
                    let rows = 32 * dim;
                    y.par_chunks_mut(rows)
                        .zip(x.par_chunks(rows))
                        .for_each(|(y, x)| normalize_rows(x, y, weights, biases, eps));
                }
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let back = NormalizeBack { scale: self.scale.clone(), over: self.over };
        Ok(Some(x.apply_op2_no_bwd(&gradient.contiguous()?, &back)?))
    }
}

impl CustomOp2 for NormalizeBack {
    fn name(&self) -> &'static str {
        "frozen-norm-back"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = (values(x, x_layout)?, values(gradient, gradient_layout)?);
        let dx = filled(x.len(), |dx| {
            let Scale { weights, biases, groups, eps, .. } = &*self.scale;
            let (groups, eps) = (*groups, *eps as f32);
            match self.over {
                Over::Groups { silu } => {
                    let (pixels, per_group) = (pixels_of(x_layout), weights.len() / groups);
                    let size = per_group * pixels;
                    let parts =
                        dx.par_chunks_mut(size).zip(x.par_chunks(size)).zip(dy.par_chunks(size));
                    parts.enumerate().for_each(|(index, ((dx, x), dy))| {
                        let first = index % groups * per_group;
                        let range = first..first + per_group;
                        group_gradient(
                            x,
                            dy,
                            dx,
                            Channels {
                                weights: &weights[range.clone()],
                                biases: &biases[range],
                                pixels,
                                eps,
                                silu,
                            },
                        );
                    });
                }
                Over::LastDim => {
                    let rows = 32 * weights.len();
                    let parts =
                        dx.par_chunks_mut(rows).zip(x.par_chunks(rows)).zip(dy.par_chunks(rows));
                    parts.for_each(|((dx, x), dy)| rows_gradient(x, dy, dx, weights, eps));
                }
            }
        });
        Ok((CpuStorage::F32(dx), x_layout.shape().clone()))
    }
}

/// Pixels of one channel of `(batch, channels, …)`.
fn pixels_of(layout: &Layout) -> usize {
    layout.dims()[2..].iter().product()
}

/// The channels of one group.
#[derive(Clone, Copy)]
struct Channels<'a> {
    weights: &'a [f32],
    biases: &'a [f32],
    pixels: usize,
    eps: f32,
    silu: bool,
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
    fn normalize_group(x: &[f32], y: &mut [f32], channels: Channels<'_>) {
        let Channels { weights, biases, pixels, eps, silu } = channels;
        let (mean, rstd) = moments(x, eps);
        for (channel, (y, x)) in y.chunks_exact_mut(pixels).zip(x.chunks_exact(pixels)).enumerate() {
            let factor = rstd * weights[channel];
            let shift = biases[channel] - mean * factor;
            if silu {
                for (y, &x) in y.iter_mut().zip(x) {
                    let z = x * factor + shift;
                    *y = z * sigmoid(z);
                }
            } else {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = x * factor + shift;
                }
            }
        }
    }
}

vectorized! {
    fn group_gradient(x: &[f32], dy: &[f32], dx: &mut [f32], channels: Channels<'_>) {
        let Channels { weights, biases, pixels, eps, silu } = channels;
        let (mean, rstd) = moments(x, eps);
        // First g = w dy into dx, then its means, then dx itself.
        for (channel, dx) in dx.chunks_exact_mut(pixels).enumerate() {
            let range = channel * pixels..(channel + 1) * pixels;
            let (x, dy, weight, bias) = (&x[range.clone()], &dy[range], weights[channel], biases[channel]);
            if silu {
                for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                    let z = (x - mean) * rstd * weight + bias;
                    let s = sigmoid(z);
                    *dx = weight * dy * s * (1.0 + z * (1.0 - s));
                }
            } else {
                for (dx, &dy) in dx.iter_mut().zip(dy) {
                    *dx = weight * dy;
                }
            }
        }
        let count = x.len() as f32;
        let mean_g = sum_of(dx, |g| g) / count;
        let mean_gx = sum_of_pairs(dx, x, |g, x| g * (x - mean) * rstd) / count;
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = rstd * (*dx - mean_g - (x - mean) * rstd * mean_gx);
        }
    }
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
    fn rows_gradient(x: &[f32], dy: &[f32], dx: &mut [f32], weights: &[f32], eps: f32) {
        let dim = weights.len();
        for ((dx, x), dy) in dx.chunks_exact_mut(dim).zip(x.chunks_exact(dim)).zip(dy.chunks_exact(dim)) {
            let (mean, rstd) = moments(x, eps);
            for ((dx, &dy), &weight) in dx.iter_mut().zip(dy).zip(weights) {
                *dx = weight * dy;
            }
            let mean_g = sum_of(dx, |g| g) / dim as f32;
            let mean_gx = sum_of_pairs(dx, x, |g, x| g * (x - mean) * rstd) / dim as f32;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = rstd * (*dx - mean_g - (x - mean) * rstd * mean_gx);
            }
        }
    }
}
