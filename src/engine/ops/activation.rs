//! Pointwise activations and GEGLU.

use candle_core::{D, Result, Tensor};

/// `x · σ(x)`, any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// `x · Φ(x)` with the error function, as `torch.nn.functional.gelu`, any shape.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// `x · σ(1.702 x)`, OpenAI CLIP's activation, any shape.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    let scaled = (x * 1.702)?;
    // σ(z) = 1 / (1 + e^(−z))
    x / (scaled.neg()?.exp()? + 1.0)?
}

/// Splits the last dimension in halves `(a, gate)` and returns `a · gelu(gate)`: `(…, 2d)` → `(…, d)`.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let halves = x.chunk(2, D::Minus1)?;
    &halves[0].contiguous()? * gelu(&halves[1].contiguous()?)?
}
