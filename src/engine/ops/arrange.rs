//! Sums and joins between the layers.

use candle_core::{D, Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{applies, filled, tensor, values};
use crate::engine::autograd::Variable;

/// Values of one task.
const CHUNK: usize = 16384;

/// `x + y`, both of one shape.
pub fn sum(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if !applies(x) || x.dims() != y.dims() {
        return x + y;
    }
    let (x, y) = (x.contiguous()?, y.contiguous()?);
    let shape = x.shape().clone();
    let (x, y) = (values(&x)?, values(&y)?);
    let (x, y): (&[f32], &[f32]) = (&x, &y);
    let sum = filled(x.len(), |sum| {
        let parts = sum.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(y.par_chunks(CHUNK));
        parts.for_each(|((sum, x), y)| {
            sum.iter_mut().zip(x).zip(y).for_each(|((sum, x), y)| *sum = x + y);
        });
    });
    tensor(sum, shape)
}

/// `(…, a)` and `(…, b)` → `(…, a + b)`.
pub fn concat_channels(x: &Variable, y: &Variable) -> Result<Variable> {
    let (a, b) = (x.tensor().dim(D::Minus1)?, y.tensor().dim(D::Minus1)?);
    let joined = if applies(x.tensor()) {
        join(x.tensor(), y.tensor(), (a, b))?
    } else {
        Tensor::cat(&[x.tensor(), y.tensor()], D::Minus1)?
    };
    Ok(Variable::derived(joined, [x, y], move |gradient, [of_x, of_y]| {
        let part = |start: usize, count: usize| match applies(gradient) {
            true => cut(gradient, start, count),
            false => gradient.narrow(D::Minus1, start, count)?.contiguous(),
        };
        Ok([of_x.then(|| part(0, a)).transpose()?, of_y.then(|| part(a, b)).transpose()?])
    }))
}

fn join(x: &Tensor, y: &Tensor, (a, b): (usize, usize)) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut() else { bail!("numbers have no channels") };
    *last = a + b;
    if x.dims()[..x.rank() - 1] != y.dims()[..y.rank() - 1] {
        bail!("channels of {:?} and {:?} do not join", x.dims(), y.dims());
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
fn cut(x: &Tensor, start: usize, count: usize) -> Result<Tensor> {
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut() else { bail!("numbers have no channels") };
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
