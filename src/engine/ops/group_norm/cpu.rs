//! Group normalisation on the CPU.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::engine::ops::buffer::{filled, tensor, values};
use crate::engine::ops::math::sigmoid;
use crate::engine::ops::normalization::Affine;
use crate::engine::ops::simd::vectorized;

/// Pixels of one task, whose sums are taken in f32.
const PIXELS: usize = 256;

/// One group norm.
pub(super) struct Norm {
    pub(super) affine: Arc<Affine>,
    pub(super) groups: usize,
    pub(super) eps: f64,
    pub(super) silu: bool,
}

/// For each channel of one image, the coefficients of `x̂ = x · rstd + offset` and of the result before SiLU,
/// `z = x · factor + shift`.
#[derive(Clone, Default)]
pub(super) struct PerChannel {
    rstd: Vec<f32>,
    offset: Vec<f32>,
    factor: Vec<f32>,
    shift: Vec<f32>,
}

impl Norm {
    /// The result, and what [`Self::backward`] needs of each image.
    ///
    /// - `shift`: `(batch, channels)`
    pub(super) fn forward(
        &self,
        x: &Tensor,
        shift: Option<&Tensor>,
    ) -> Result<(Tensor, Vec<PerChannel>)> {
        let (batch, height, width, channels) = x.dims4()?;
        let size = height * width * channels;
        let shifts: Vec<f32> = match shift {
            Some(shift) => shift.flatten_all()?.to_vec1()?,
            None => vec![0.0; batch * channels],
        };
        let mut all = vec![PerChannel::default(); batch];
        let shape = x.shape();
        let x = values(x)?;
        let x: &[f32] = &x;
        let y = filled(x.len(), |y| {
            y.par_chunks_mut(size)
                .zip(x.par_chunks(size))
                .zip(shifts.par_chunks(channels))
                .zip(all.par_iter_mut())
                .for_each(|(((y, x), shift), per_channel)| {
                    *per_channel = self.per_channel(x, shift);
                    let chunk = PIXELS * channels;
                    y.par_chunks_mut(chunk)
                        .zip(x.par_chunks(chunk))
                        .for_each(|(y, x)| scale_pixels(x, y, per_channel, self.silu));
                });
        });
        Ok((tensor(y, shape)?, all))
    }

    /// The gradient of `x` from that of the result, plus what it is `so_far`.
    pub(super) fn backward(
        &self,
        x: &Tensor,
        dy: &Tensor,
        so_far: Option<&Tensor>,
        all: &[PerChannel],
    ) -> Result<Tensor> {
        let (_, height, width, channels) = x.dims4()?;
        let size = height * width * channels;
        let shape = x.shape();
        let so_far = so_far.map(|so_far| so_far.contiguous()).transpose()?;
        let so_far = so_far.as_ref().map(values).transpose()?;
        let so_far: Option<&[f32]> = so_far.as_deref();
        let (x, dy) = (values(x)?, values(dy)?);
        let (x, dy): (&[f32], &[f32]) = (&x, &dy);
        let dx = filled(x.len(), |dx| {
            let images = dx
                .par_chunks_mut(size)
                .zip(x.par_chunks(size))
                .zip(dy.par_chunks(size))
                .zip(all.par_iter());
            images.enumerate().for_each(|(index, (((dx, x), dy), c))| {
                let so_far = so_far.map(|so_far| &so_far[index * size..]);
                self.image_gradient(x, dy, so_far, dx, c);
            });
        });
        tensor(dx, shape)
    }

    /// The coefficients of one image.
    ///
    /// - `shift`: added to each channel first
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
        let mut sums = sum_chunks(x, channels, sum_pixels);
        sums.iter_mut().zip(shift).for_each(|(sum, shift)| *sum += pixels * f64::from(*shift));
        let means = of_groups(sums);
        // The shift of each channel, less its group's mean.
        let deviations: Vec<f32> = shift
            .iter()
            .enumerate()
            .map(|(channel, shift)| (f64::from(*shift) - means[channel / per_group]) as f32)
            .collect();
        let squares = sum_chunks(x, channels, |x, sums| sum_squares(x, &deviations, sums));
        let variances = of_groups(squares);

        let rstds: Vec<f32> =
            variances.iter().map(|variance| (1.0 / (variance + self.eps).sqrt()) as f32).collect();
        let rstd: Vec<f32> = (0..channels).map(|channel| rstds[channel / per_group]).collect();
        let offset: Vec<f32> =
            deviations.iter().zip(&rstd).map(|(deviation, rstd)| deviation * rstd).collect();
        let factor =
            rstd.iter().zip(&self.affine.weights).map(|(rstd, weight)| rstd * weight).collect();
        let shifts = offset.iter().zip(&self.affine.weights).zip(&self.affine.biases);
        let shift = shifts.map(|((offset, weight), bias)| offset * weight + bias).collect();
        PerChannel { rstd, offset, factor, shift }
    }

    /// The gradient of one image. `dx` first holds `g`, then, once its means over each group are known, the result.
    fn image_gradient(
        &self,
        x: &[f32],
        dy: &[f32],
        so_far: Option<&[f32]>,
        dx: &mut [f32],
        c: &PerChannel,
    ) {
        let channels = c.rstd.len();
        let (per_group, chunk) = (channels / self.groups, PIXELS * channels);
        let count = (x.len() / channels * per_group) as f64;
        let sums: Vec<[Vec<f32>; 2]> = dx
            .par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .zip(dy.par_chunks(chunk))
            .map(|((dx, x), dy)| {
                let (mut sum_g, mut sum_gx) = (vec![0.0; channels], vec![0.0; channels]);
                pixel_gradients(
                    x,
                    dy,
                    dx,
                    c,
                    &self.affine.weights,
                    (&mut sum_g, &mut sum_gx),
                    self.silu,
                );
                [sum_g, sum_gx]
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
        let chunks = dx.par_chunks_mut(chunk).zip(x.par_chunks(chunk));
        chunks.enumerate().for_each(|(index, (dx, x))| {
            let so_far = so_far.map(|so_far| &so_far[index * chunk..]);
            center_gradients(x, so_far, dx, c, &mean_g, &mean_gx);
        });
    }
}

/// Sums over pixels for each channel, in f32 within a chunk and in f64 over the chunks.
fn sum_chunks(x: &[f32], channels: usize, sum: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f64> {
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
    fn sum_squares(x: &[f32], deviations: &[f32], sums: &mut [f32]) {
        for x in x.chunks_exact(sums.len()) {
            for ((sum, x), deviation) in sums.iter_mut().zip(x).zip(deviations) {
                let distance = x + deviation;
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
    /// Writes `g` of each pixel to `dx`, and adds `g` and `g x̂` to the sums of each channel.
    fn pixel_gradients(x: &[f32], dy: &[f32], dx: &mut [f32], c: &PerChannel, weights: &[f32], sums: (&mut [f32], &mut [f32]), silu: bool) {
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
    fn center_gradients(x: &[f32], so_far: Option<&[f32]>, dx: &mut [f32], c: &PerChannel, mean_g: &[f32], mean_gx: &[f32]) {
        let channels = mean_g.len();
        for (index, (dx, x)) in dx.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).enumerate() {
            let parts = dx.iter_mut().zip(x).zip(mean_g).zip(mean_gx).zip(c.rstd.iter().zip(&c.offset));
            for ((((dx, x), mean_g), mean_gx), (rstd, offset)) in parts {
                *dx = rstd * (*dx - mean_g - (x * rstd + offset) * mean_gx);
            }
            if let Some(so_far) = so_far {
                dx.iter_mut().zip(&so_far[index * channels..]).for_each(|(dx, so_far)| *dx += so_far);
            }
        }
    }
}
