//! Concatenation of channels.

mod candle;
mod cpu;

use candle_core::{D, Result};

use super::buffer::has_kernels;
use crate::engine::autograd::Variable;

/// `(…, a)` and `(…, b)` → `(…, a + b)`.
pub fn concat_channels(x: &Variable, y: &Variable) -> Result<Variable> {
    let (a, b) = (x.tensor().dim(D::Minus1)?, y.tensor().dim(D::Minus1)?);
    let joined = match has_kernels(x.tensor()) {
        true => cpu::concat(x.tensor(), y.tensor(), (a, b))?,
        false => candle::concat(x.tensor(), y.tensor())?,
    };
    Ok(Variable::derived(joined, [x, y], move |gradient, [of_x, of_y]| {
        let part = |start: usize, count: usize| match has_kernels(gradient) {
            true => cpu::slice_channels(gradient, start, count),
            false => candle::slice_channels(gradient, start, count),
        };
        Ok([of_x.then(|| part(0, a)).transpose()?, of_y.then(|| part(a, b)).transpose()?])
    }))
}
