//! Pointwise activations.

mod candle;
mod cpu;
mod function;

use candle_core::Result;

pub(super) use self::cpu::apply as apply_on_cpu;
pub(super) use self::function::Function;
use super::buffer::has_kernels;
use crate::engine::autograd::Variable;

/// `x · σ(x)`, any shape; derivative `σ(x) (1 + x (1 − σ(x)))`.
pub fn silu(x: &Variable) -> Result<Variable> {
    apply(Function::Silu, x)
}

/// `x · Φ(x)` with the error function, as `torch.nn.functional.gelu`, any shape; derivative `Φ(x) + x φ(x)`.
pub fn gelu(x: &Variable) -> Result<Variable> {
    apply(Function::Gelu, x)
}

/// `x · σ(1.702 x)`, OpenAI CLIP's activation, any shape.
pub fn quick_gelu(x: &Variable) -> Result<Variable> {
    apply(Function::QuickGelu, x)
}

pub(super) fn apply(function: Function, x: &Variable) -> Result<Variable> {
    let input = x.tensor().contiguous()?;
    let y = match has_kernels(&input) {
        true => cpu::forward(function, &input)?,
        false => candle::forward(function, &input)?,
    };
    Ok(Variable::derived(y, [x], move |dy, _| {
        let dx = match has_kernels(&input) {
            true => cpu::backward(function, &input, &dy.contiguous()?)?,
            false => candle::backward(function, &input, dy)?,
        };
        Ok([Some(dx)])
    }))
}
