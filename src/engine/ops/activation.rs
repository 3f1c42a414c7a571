//! Pointwise activations and GEGLU.

use candle_core::{Result, bail};
use rayon::prelude::*;

use super::cpu::{applies, erf_complement, exp, filled, sigmoid, tensor, values, vectorized};
use super::elsewhere;
use crate::engine::autograd::Variable;

/// Values of one task.
const CHUNK: usize = 8192;

/// `x · σ(x)`, any shape; derivative `σ(x) (1 + x (1 − σ(x)))`.
pub fn silu(x: &Variable) -> Result<Variable> {
    Function::Silu.apply(x)
}

/// `x · Φ(x)` with the error function, as `torch.nn.functional.gelu`, any shape; derivative `Φ(x) + x φ(x)`.
pub fn gelu(x: &Variable) -> Result<Variable> {
    Function::Gelu.apply(x)
}

/// `x · σ(1.702 x)`, OpenAI CLIP's activation, any shape.
pub fn quick_gelu(x: &Variable) -> Result<Variable> {
    Function::QuickGelu.apply(x)
}

/// A function of one number.
#[derive(Clone, Copy)]
pub(super) enum Function {
    Silu,
    Gelu,
    QuickGelu,
}

impl Function {
    fn apply(self, x: &Variable) -> Result<Variable> {
        if !applies(x.tensor()) {
            return elsewhere::activation(x, self);
        }
        let input = x.tensor().contiguous()?;
        let y = {
            let input = values(&input)?;
            let input: &[f32] = &input;
            filled(input.len(), |y| {
                y.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK)).for_each(
                    |(y, x)| match self {
                        Self::Silu => silu_of(x, y),
                        Self::Gelu => gelu_of(x, y),
                        Self::QuickGelu => quick_gelu_of(x, y),
                    },
                );
            })
        };
        let y = tensor(y, input.shape())?;
        Ok(Variable::derived(y, [x], move |dy, _| {
            let dy = dy.contiguous()?;
            let (x, dy) = (values(&input)?, values(&dy)?);
            let (x, dy): (&[f32], &[f32]) = (&x, &dy);
            let dx = filled(x.len(), |dx| {
                let parts =
                    dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
                parts.for_each(|((dx, x), dy)| match self {
                    Self::Silu => silu_gradient(x, dy, dx),
                    Self::Gelu => gelu_gradient(x, dy, dx),
                    Self::QuickGelu => quick_gelu_gradient(x, dy, dx),
                });
            });
            Ok([Some(tensor(dx, input.shape())?)])
        }))
    }
}

/// Splits the last dimension in halves `(a, gate)` and returns `a · gelu(gate)`: `(…, 2d)` → `(…, d)`.
pub fn geglu(x: &Variable) -> Result<Variable> {
    let mut shape = x.tensor().dims().to_vec();
    let width = match shape.last_mut() {
        Some(last) if last.is_multiple_of(2) => {
            *last /= 2;
            *last
        }
        Some(_) | None => bail!("{:?} does not split in halves", x.tensor().dims()),
    };
    if !applies(x.tensor()) {
        return elsewhere::geglu(x);
    }
    let input = x.tensor().contiguous()?;
    let input_shape = input.shape().clone();
    let rows = (CHUNK / width).max(1);
    let halves = values(&input)?;
    let halves: &[f32] = &halves;
    if !x.is_tracked() {
        let y = filled(halves.len() / 2, |y| {
            let parts = y.par_chunks_mut(rows * width).zip(halves.par_chunks(2 * rows * width));
            parts.for_each(|(y, x)| geglu_of(x, y, width));
        });
        return Ok(tensor(y, shape)?.into());
    }
    // What the way back multiplies by takes the place of what it would be computed from.
    let mut factors = Vec::new();
    let y = filled(halves.len() / 2, |y| {
        factors = filled(halves.len(), |factors| {
            let parts = y.par_chunks_mut(rows * width).zip(halves.par_chunks(2 * rows * width));
            parts
                .zip(factors.par_chunks_mut(2 * rows * width))
                .for_each(|((y, x), factors)| geglu_and_factors(x, y, factors, width));
        });
    });
    Ok(Variable::derived(tensor(y, shape)?, [x], move |dy, _| {
        let (shape, dy) = (input_shape, dy.contiguous()?);
        let dy = values(&dy)?;
        let dy: &[f32] = &dy;
        let dx = filled(factors.len(), |dx| {
            let parts =
                dx.par_chunks_mut(2 * rows * width).zip(factors.par_chunks(2 * rows * width));
            parts
                .zip(dy.par_chunks(rows * width))
                .for_each(|((dx, factors), dy)| geglu_gradient(factors, dy, dx, width));
        });
        Ok([Some(tensor(dx, shape)?)])
    }))
}

/// `Φ(x)` and `φ(x)`.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let e = exp(-0.5 * x * x);
    let tail = 0.5 * erf_complement(x * std::f32::consts::FRAC_1_SQRT_2, e); // beyond |x|, on one side
    (if x < 0.0 { tail } else { 1.0 - tail }, 0.398_942_3 * e)
}

vectorized! {
    fn silu_of(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * sigmoid(x));
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
    fn gelu_of(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * normal(x).0);
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
    fn quick_gelu_of(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = x * sigmoid(1.702 * x));
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

vectorized! {
    fn geglu_of(x: &[f32], y: &mut [f32], width: usize) {
        for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
            let (a, gate) = x.split_at(width);
            y.iter_mut().zip(a).zip(gate).for_each(|((y, &a), &gate)| *y = a * (gate * normal(gate).0));
        }
    }
}

vectorized! {
    /// [`geglu_of`], and its derivatives `gelu(gate)` and `a · gelu'(gate)`.
    fn geglu_and_factors(x: &[f32], y: &mut [f32], factors: &mut [f32], width: usize) {
        let rows = y.chunks_exact_mut(width).zip(factors.chunks_exact_mut(2 * width));
        for ((y, factors), x) in rows.zip(x.chunks_exact(2 * width)) {
            let (a, gate) = x.split_at(width);
            let (of_a, of_gate) = factors.split_at_mut(width);
            for ((((y, of_a), of_gate), &a), &gate) in y.iter_mut().zip(of_a).zip(of_gate).zip(a).zip(gate) {
                let (cdf, pdf) = normal(gate);
                *of_a = gate * cdf;
                *of_gate = a * (cdf + gate * pdf);
                *y = a * (gate * cdf);
            }
        }
    }
}

vectorized! {
    fn geglu_gradient(factors: &[f32], dy: &[f32], dx: &mut [f32], width: usize) {
        for ((dx, factors), dy) in dx.chunks_exact_mut(2 * width).zip(factors.chunks_exact(2 * width)).zip(dy.chunks_exact(width)) {
            let (dx, factors) = (dx.chunks_exact_mut(width), factors.chunks_exact(width));
            for (dx, factors) in dx.zip(factors) {
                dx.iter_mut().zip(factors).zip(dy).for_each(|((dx, factor), dy)| *dx = factor * dy);
            }
        }
    }
}
