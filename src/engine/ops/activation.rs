//! Pointwise activations and GEGLU.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, D, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{applies, erf, exp, filled, sigmoid, values, vectorized};

/// Values of one task.
const CHUNK: usize = 8192;

/// `x · σ(x)`, any shape; derivative `σ(x) (1 + x (1 − σ(x)))`.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if applies(x) { x.contiguous()?.apply_op1(Function::Silu) } else { x.silu() }
}

/// `x · Φ(x)` with the error function, as `torch.nn.functional.gelu`, any shape; derivative `Φ(x) + x φ(x)`.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if applies(x) { x.contiguous()?.apply_op1(Function::Gelu) } else { x.gelu_erf() }
}

/// `x · σ(1.702 x)`, OpenAI CLIP's activation, any shape.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if applies(x) {
        return x.contiguous()?.apply_op1(Function::QuickGelu);
    }
    let scaled = (x * 1.702)?;
    // σ(z) = 1 / (1 + e^(−z))
    x / (scaled.neg()?.exp()? + 1.0)?
}

/// Splits the last dimension in halves `(a, gate)` and returns `a · gelu(gate)`: `(…, 2d)` → `(…, d)`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    if applies(x) {
        return x.contiguous()?.apply_op1(Geglu);
    }
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0].contiguous()? * gelu(&halves[1].contiguous()?)?
}

/// A function of one number on candle's tape.
#[derive(Clone, Copy)]
enum Function {
    Silu,
    Gelu,
    QuickGelu,
}

/// Its gradient, from the input and the incoming gradient.
struct Slope(Function);

impl CustomOp1 for Function {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let y = filled(x.len(), |y| {
            y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| match self {
                Self::Silu => silu_of(x, y),
                Self::Gelu => gelu_of(x, y),
                Self::QuickGelu => quick_gelu_of(x, y),
            });
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&gradient.contiguous()?, &Slope(*self))?))
    }
}

impl CustomOp2 for Slope {
    fn name(&self) -> &'static str {
        "activation-back"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = (values(x, x_layout)?, values(dy, dy_layout)?);
        let dx = filled(x.len(), |dx| {
            dx.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK)).for_each(
                |((dx, x), dy)| match self.0 {
                    Function::Silu => silu_gradient(x, dy, dx),
                    Function::Gelu => gelu_gradient(x, dy, dx),
                    Function::QuickGelu => quick_gelu_gradient(x, dy, dx),
                },
            );
        });
        Ok((CpuStorage::F32(dx), x_layout.shape().clone()))
    }
}

/// GEGLU on candle's tape.
struct Geglu;

/// Its gradient, from the input and the incoming gradient.
struct GegluBack;

impl CustomOp1 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let mut shape = layout.dims().to_vec();
        let width = match shape.last_mut() {
            Some(last) if last.is_multiple_of(2) => {
                *last /= 2;
                *last
            }
            Some(_) | None => bail!("{:?} does not split in halves", layout.dims()),
        };
        let y = filled(x.len() / 2, |y| {
            let rows = (CHUNK / width).max(1);
            y.par_chunks_mut(rows * width)
                .zip(x.par_chunks(2 * rows * width))
                .for_each(|(y, x)| geglu_of(x, y, width));
        });
        Ok((CpuStorage::F32(y), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(x.apply_op2_no_bwd(&gradient.contiguous()?, &GegluBack)?))
    }
}

impl CustomOp2 for GegluBack {
    fn name(&self) -> &'static str {
        "geglu-back"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        dy: &CpuStorage,
        dy_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, dy) = (values(x, x_layout)?, values(dy, dy_layout)?);
        let width = x_layout.dims().last().map_or(1, |last| last / 2);
        let dx = filled(x.len(), |dx| {
            let rows = (CHUNK / width).max(1);
            let parts = dx.par_chunks_mut(2 * rows * width).zip(x.par_chunks(2 * rows * width));
            parts
                .zip(dy.par_chunks(rows * width))
                .for_each(|((dx, x), dy)| geglu_gradient(x, dy, dx, width));
        });
        Ok((CpuStorage::F32(dx), x_layout.shape().clone()))
    }
}

/// `Φ(x)` and `φ(x)`.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let cdf = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    let pdf = 0.398_942_3 * exp(-0.5 * x * x);
    (cdf, pdf)
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
            y.iter_mut().zip(a).zip(gate).for_each(|((y, &a), &gate)| *y = a * gate * normal(gate).0);
        }
    }
}

vectorized! {
    fn geglu_gradient(x: &[f32], dy: &[f32], dx: &mut [f32], width: usize) {
        for ((dx, x), dy) in dx.chunks_exact_mut(2 * width).zip(x.chunks_exact(2 * width)).zip(dy.chunks_exact(width)) {
            let (a, gate) = x.split_at(width);
            let (da, d_gate) = dx.split_at_mut(width);
            for ((((da, d_gate), &a), &gate), &dy) in da.iter_mut().zip(d_gate).zip(a).zip(gate).zip(dy) {
                let (cdf, pdf) = normal(gate);
                *da = dy * gate * cdf;
                *d_gate = dy * a * (cdf + gate * pdf);
            }
        }
    }
}
