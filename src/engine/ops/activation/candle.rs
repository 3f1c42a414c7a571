//! Activations in candle's tensors.

use candle_core::{Result, Tensor};

use super::function::Function;
use crate::engine::ops::chunks::{in_row_chunks, wide};
use crate::engine::ops::cuda::{self, Family};

pub(super) fn forward(function: Function, x: &Tensor) -> Result<Tensor> {
    if cuda::has_kernels(x, Family::Pointwise) {
        return cuda::activation(number(function), x, None);
    }
    let (narrow, wide) = (x.dtype(), wide(x));
    in_row_chunks(&[x], |part| function.value(&part[0].to_dtype(wide)?)?.to_dtype(narrow))
}

pub(super) fn backward(function: Function, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    if cuda::has_kernels(x, Family::Pointwise) {
        return cuda::activation(number(function), x, Some(dy));
    }
    let (narrow, wide) = (x.dtype(), wide(x));
    in_row_chunks(&[x, dy], |part| {
        let slope = function.slope(&part[0].to_dtype(wide)?)?;
        (part[1].to_dtype(wide)? * slope)?.to_dtype(narrow)
    })
}

/// By which our kernels know a function.
fn number(function: Function) -> u32 {
    match function {
        Function::Silu => 0,
        Function::Gelu => 1,
        Function::QuickGelu => 2,
    }
}

impl Function {
    /// The function of each element.
    pub(crate) fn value(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => x * sigmoid(x)?,
            Self::Gelu => x * normal(x)?.0,
            Self::QuickGelu => x * sigmoid(&(x * 1.702)?)?,
        }
    }

    /// Its derivative.
    pub(crate) fn slope(self, x: &Tensor) -> Result<Tensor> {
        // Of x σ(k x): σ (1 + k x (1 − σ))
        let logistic = |k: f64| -> Result<Tensor> {
            let s = sigmoid(&(x * k)?)?;
            let rest = (((x * k)? * s.affine(-1.0, 1.0)?)? + 1.0)?;
            s * rest
        };
        match self {
            Self::Silu => logistic(1.0),
            Self::QuickGelu => logistic(1.702),
            Self::Gelu => {
                let (cdf, pdf) = normal(x)?;
                cdf + (x * pdf)?
            }
        }
    }
}

/// `1 / (1 + e^(−x))`.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// `Φ(x)` and `φ(x)`.
fn normal(x: &Tensor) -> Result<(Tensor, Tensor)> {
    let cdf = (((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?;
    let factor = 0.5 * std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2; // 1 / √(2π)
    let pdf = ((x.sqr()? * -0.5)?.exp()? * factor)?;
    Ok((cdf, pdf))
}
