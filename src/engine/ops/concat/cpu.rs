//! Concatenation on the CPU.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::engine::ops::buffer::{filled, tensor, values};

/// Values of one task.
const CHUNK: usize = 16384;

pub(super) fn concat(x: &Tensor, y: &Tensor, (a, b): (usize, usize)) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut() else { bail!("a scalar has no channels") };
    *last = a + b;
    if x.dims()[..x.rank() - 1] != y.dims()[..y.rank() - 1] {
        bail!("channels of {:?} and {:?} cannot be concatenated", x.dims(), y.dims());
    }
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let (x, y) = (values(&x)?, values(&y)?);
    let (x, y): (&[f32], &[f32]) = (&x, &y);
    let rows = (CHUNK / (a + b)).max(1);
    let joined = filled(x.len() + y.len(), |joined| {
        let parts = joined.par_chunks_mut(rows * (a + b)).zip(x.par_chunks(rows * a));
        parts.zip(y.par_chunks(rows * b)).for_each(|((joined, x), y)| {
            let rows = joined.chunks_exact_mut(a + b).zip(x.chunks_exact(a)).zip(y.chunks_exact(b));
            for ((joined, x), y) in rows {
                joined[..a].copy_from_slice(x);
                joined[a..].copy_from_slice(y);
            }
        });
    });
    tensor(joined, shape)
}

/// Channels `start..start + count`.
pub(super) fn slice_channels(x: &Tensor, start: usize, count: usize) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut() else { bail!("a scalar has no channels") };
    let width = std::mem::replace(last, count);
    let x = x.contiguous()?;
    let x = values(&x)?;
    let x: &[f32] = &x;
    let rows = (CHUNK / width).max(1);
    let part = filled(x.len() / width * count, |part| {
        part.par_chunks_mut(rows * count).zip(x.par_chunks(rows * width)).for_each(|(part, x)| {
            for (part, x) in part.chunks_exact_mut(count).zip(x.chunks_exact(width)) {
                part.copy_from_slice(&x[start..start + count]);
            }
        });
    });
    tensor(part, shape)
}
