//! Pointwise activations.

use candle_core::Result;
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

/// `Φ(x)` and `φ(x)`.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
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
