//! Normalisation with frozen scale and shift.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::cpu::{applies, filled, sigmoid, sum_of, sum_of_pairs, tensor, values, vectorized};
use super::elsewhere;
use crate::engine::autograd::Variable;

/// Pixels whose sums are taken together.
const PIXELS: usize = 256;
/// Rows of one task.
const ROWS: usize = 32;

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

    /// `(batch, height, width, channels)` → the same shape.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        self.apply(x, None, false)
    }

    /// [`Self::forward`] followed by SiLU, in one pass.
    pub fn forward_silu(&self, x: &Variable) -> Result<Variable> {
        self.apply(x, None, true)
    }

    /// [`Self::forward_silu`] of `x` plus one number per image and channel.
    ///
    /// - `shift`: `(batch, channels)`, takes no gradient
    pub fn forward_shifted_silu(&self, x: &Variable, shift: &Tensor) -> Result<Variable> {
        self.apply(x, Some(shift), true)
    }

    fn apply(&self, x: &Variable, shift: Option<&Tensor>, silu: bool) -> Result<Variable> {
        let Scale { weight, bias, groups, eps, .. } = &*self.0;
        if !applies(x.tensor()) {
            return elsewhere::group_norm(x, shift, (weight, bias), (*groups, *eps), silu);
        }
        let (batch, height, width, channels) = x.tensor().dims4()?;
        let size = height * width * channels;
        let input = x.tensor().contiguous()?;
        let shifts: Vec<f32> = match shift {
            Some(shift) => shift.flatten_all()?.to_vec1()?,
            None => vec![0.0; batch * channels],
        };
        let mut all = vec![PerChannel::default(); batch];
        let y = {
            let input = values(&input)?;
            let input: &[f32] = &input;
            filled(input.len(), |y| {
                y.par_chunks_mut(size)
                    .zip(input.par_chunks(size))
                    .zip(shifts.par_chunks(channels))
                    .zip(all.par_iter_mut())
                    .for_each(|(((y, x), shift), per_channel)| {
                        *per_channel = self.0.per_channel(x, shift);
                        let chunk = PIXELS * channels;
                        y.par_chunks_mut(chunk)
                            .zip(x.par_chunks(chunk))
                            .for_each(|(y, x)| scale_pixels(x, y, per_channel, silu));
                    });
            })
        };
        let (y, scale) = (tensor(y, x.tensor().shape())?, self.0.clone());
        Ok(Variable::derived(y, [x], move |dy, _| {
            let dy = dy.contiguous()?;
            let (x, dy) = (values(&input)?, values(&dy)?);
            let (x, dy): (&[f32], &[f32]) = (&x, &dy);
            let dx = filled(x.len(), |dx| {
                dx.par_chunks_mut(size)
                    .zip(x.par_chunks(size))
                    .zip(dy.par_chunks(size))
                    .zip(all.par_iter())
                    .for_each(|(((dx, x), dy), c)| scale.image_gradient(x, dy, dx, c, silu));
            });
            Ok([Some(tensor(dx, input.shape())?)])
        }))
    }
}

/// What turns one image's `x` into `x̂ = x · rstd + offset` and `z = x · factor + shift`, for each channel.
#[derive(Clone, Default)]
struct PerChannel {
    rstd: Vec<f32>,
    offset: Vec<f32>,
    factor: Vec<f32>,
    shift: Vec<f32>,
}

impl Scale {
    fn per_channel(&self, x: &[f32], shift: &[f32]) -> PerChannel {
        let channels = shift.len();
        let per_group = channels / self.groups;
        let count = (x.len() / channels * per_group) as f64;
        let of_groups = |per_channel: Vec<f64>| -> Vec<f64> {
            per_channel
                .chunks_exact(per_group)
                .map(|group| group.iter().sum::<f64>() / count)
                .collect()
        };
        let pixels = (x.len() / channels) as f64;
        let mut sums = add_chunks(x, channels, sum_pixels);
        sums.iter_mut().zip(shift).for_each(|(sum, shift)| *sum += pixels * f64::from(*shift));
        let means = of_groups(sums);
        // Each channel's distance from its group's mean.
        let away: Vec<f32> = shift
            .iter()
            .enumerate()
            .map(|(channel, shift)| (f64::from(*shift) - means[channel / per_group]) as f32)
            .collect();
        let squares = add_chunks(x, channels, |x, sums| sum_squares(x, &away, sums));
        let variances = of_groups(squares);

        let rstds: Vec<f32> =
            variances.iter().map(|variance| (1.0 / (variance + self.eps).sqrt()) as f32).collect();
        let rstd: Vec<f32> = (0..channels).map(|channel| rstds[channel / per_group]).collect();
        let offset: Vec<f32> = away.iter().zip(&rstd).map(|(away, rstd)| away * rstd).collect();
        let factor = rstd.iter().zip(&self.weights).map(|(rstd, weight)| rstd * weight).collect();
        let shifts = offset.iter().zip(&self.weights).zip(&self.biases);
        let shift = shifts.map(|((offset, weight), bias)| offset * weight + bias).collect();
        PerChannel { rstd, offset, factor, shift }
    }

    /// `g` into `dx`, then its means over each group, then `dx` itself.
    fn image_gradient(&self, x: &[f32], dy: &[f32], dx: &mut [f32], c: &PerChannel, silu: bool) {
        let channels = c.rstd.len();
        let (per_group, chunk) = (channels / self.groups, PIXELS * channels);
        let count = (x.len() / channels * per_group) as f64;
        let sums: Vec<[Vec<f32>; 2]> = dx
            .par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .zip(dy.par_chunks(chunk))
            .map(|((dx, x), dy)| {
                let (mut sum, mut product) = (vec![0.0; channels], vec![0.0; channels]);
                pull_pixels(x, dy, dx, c, &self.weights, (&mut sum, &mut product), silu);
                [sum, product]
            })
            .collect();
        let mean = |part: usize| -> Vec<f32> {
            let mut sums_of_groups = vec![0.0f64; self.groups];
            for chunk in &sums {
                for (group, values) in chunk[part].chunks_exact(per_group).enumerate() {
                    sums_of_groups[group] += values.iter().map(|x| f64::from(*x)).sum::<f64>();
                }
            }
            let mean = |channel: usize| (sums_of_groups[channel / per_group] / count) as f32;
            (0..channels).map(mean).collect()
        };
        let (mean_g, mean_gx) = (mean(0), mean(1));
        dx.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .for_each(|(dx, x)| centre_pixels(x, dx, c, &mean_g, &mean_gx));
    }
}

/// Sums over pixels per channel, in f32 within a chunk and in f64 over the chunks.
fn add_chunks(x: &[f32], channels: usize, sum: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f64> {
    let chunk = PIXELS * channels;
    let of_chunk = |x: &[f32]| {
        let mut sums = vec![0.0; channels];
        sum(x, &mut sums);
        sums
    };
    let chunks: Vec<Vec<f32>> = x.par_chunks(chunk).map(of_chunk).collect();
    let mut sums = vec![0.0; channels];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += f64::from(x));
    }
    sums
}

vectorized! {
    fn sum_pixels(x: &[f32], sums: &mut [f32]) {
        for x in x.chunks_exact(sums.len()) {
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
        }
    }
}

vectorized! {
    fn sum_squares(x: &[f32], away: &[f32], sums: &mut [f32]) {
        for x in x.chunks_exact(sums.len()) {
            for ((sum, x), away) in sums.iter_mut().zip(x).zip(away) {
                let distance = x + away;
                *sum += distance * distance;
            }
        }
    }
}

vectorized! {
    fn scale_pixels(x: &[f32], y: &mut [f32], c: &PerChannel, silu: bool) {
        let channels = c.factor.len();
        for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            let parts = y.iter_mut().zip(x).zip(&c.factor).zip(&c.shift);
            if silu {
                for (((y, x), factor), shift) in parts {
                    let z = x * factor + shift;
                    *y = z * sigmoid(z);
                }
            } else {
                parts.for_each(|(((y, x), factor), shift)| *y = x * factor + shift);
            }
        }
    }
}

vectorized! {
    /// `g` of each pixel into `dx`, and the sums of `g` and of `g x̂` per channel.
    fn pull_pixels(x: &[f32], dy: &[f32], dx: &mut [f32], c: &PerChannel, weights: &[f32], sums: (&mut [f32], &mut [f32]), silu: bool) {
        let channels = weights.len();
        let (sum, product) = sums;
        let rows = dx.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).zip(dy.chunks_exact(channels));
        for ((dx, x), dy) in rows {
            if silu {
                for ((((dx, x), dy), weight), (factor, shift)) in
                    dx.iter_mut().zip(x).zip(dy).zip(weights).zip(c.factor.iter().zip(&c.shift))
                {
                    let z = x * factor + shift;
                    let s = sigmoid(z);
                    *dx = weight * dy * s * (1.0 + z * (1.0 - s));
                }
            } else {
                dx.iter_mut().zip(dy).zip(weights).for_each(|((dx, dy), weight)| *dx = weight * dy);
            }
            for ((((sum, product), g), x), (rstd, offset)) in
                sum.iter_mut().zip(product.iter_mut()).zip(&*dx).zip(x).zip(c.rstd.iter().zip(&c.offset))
            {
                *sum += g;
                *product += g * (x * rstd + offset);
            }
        }
    }
}

vectorized! {
    fn centre_pixels(x: &[f32], dx: &mut [f32], c: &PerChannel, mean_g: &[f32], mean_gx: &[f32]) {
        let channels = mean_g.len();
        for (dx, x) in dx.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            let parts = dx.iter_mut().zip(x).zip(mean_g).zip(mean_gx).zip(c.rstd.iter().zip(&c.offset));
            for ((((dx, x), mean_g), mean_gx), (rstd, offset)) in parts {
                *dx = rstd * (*dx - mean_g - (x * rstd + offset) * mean_gx);
            }
        }
    }
}

impl LayerNorm {
    /// - `weight`, `bias`: `(dim,)`
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        Ok(Self(Scale::new(weight, bias, 1, eps)?))
    }

    /// `(…, dim)` → the same shape.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        let Scale { weight, bias, eps, weights, biases, .. } = &*self.0;
        if !applies(x.tensor()) {
            return elsewhere::layer_norm(x, (weight, bias), *eps);
        }
        let eps = *eps as f32;
        let input = x.tensor().contiguous()?;
        let rows = ROWS * weights.len();
        let y = {
            let input = values(&input)?;
            let input: &[f32] = &input;
            filled(input.len(), |y| {
                y.par_chunks_mut(rows)
                    .zip(input.par_chunks(rows))
                    .for_each(|(y, x)| normalize_rows(x, y, weights, biases, eps));
            })
        };
        let (y, scale) = (tensor(y, input.shape())?, self.0.clone());
        Ok(Variable::derived(y, [x], move |dy, _| {
            let dy = dy.contiguous()?;
            let (x, dy) = (values(&input)?, values(&dy)?);
            let (x, dy): (&[f32], &[f32]) = (&x, &dy);
            let dx = filled(x.len(), |dx| {
                let parts =
                    dx.par_chunks_mut(rows).zip(x.par_chunks(rows)).zip(dy.par_chunks(rows));
                parts.for_each(|((dx, x), dy)| rows_gradient(x, dy, dx, &scale.weights, eps));
            });
            Ok([Some(tensor(dx, input.shape())?)])
        }))
    }
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
