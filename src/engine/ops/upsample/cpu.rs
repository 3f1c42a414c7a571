//! Upsampling on the CPU.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use crate::engine::ops::buffer::{filled, tensor, values};

pub(super) fn forward(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (batch, h, w, channels) = x.dims4()?;
    let x = values(x)?;
    let x: &[f32] = &x;
    let row = width * channels;
    let y = filled(batch * height * row, |y| {
        y.par_chunks_mut(row).with_min_len(4).enumerate().for_each(|(index, y)| {
            let (image, at) = (index / height, index % height);
            let x = &x[(image * h + at / 2) * w * channels..][..w * channels];
            for (at, y) in y.chunks_exact_mut(channels).enumerate() {
                y.copy_from_slice(&x[at / 2 * channels..][..channels]);
            }
        });
    });
    tensor(y, (batch, height, width, channels))
}

pub(super) fn backward(dy: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let (batch, height, width, channels) = dy.dims4()?;
    let dy = values(dy)?;
    let dy: &[f32] = &dy;
    let row = w * channels;
    let dx = filled(batch * h * row, |dx| {
        dx.par_chunks_mut(row).with_min_len(4).enumerate().for_each(|(index, dx)| {
            dx.fill(0.0);
            let (image, at) = (index / h, index % h);
            for at in 2 * at..height.min(2 * at + 2) {
                let dy = &dy[(image * height + at) * width * channels..][..width * channels];
                for (at, dy) in dy.chunks_exact(channels).enumerate() {
                    let dx = &mut dx[at / 2 * channels..][..channels];
                    dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
                }
            }
        });
    });
    tensor(dx, (batch, h, w, channels))
}
