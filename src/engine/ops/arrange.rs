//! Joins between the layers.

mod candle;
mod cpu;

use candle_core::{D, Result};

use super::buffer::applies;
use crate::engine::autograd::Variable;

/// `(…, a)` and `(…, b)` → `(…, a + b)`.
pub fn concat_channels(x: &Variable, y: &Variable) -> Result<Variable> {
    let (a, b) = (x.tensor().dim(D::Minus1)?, y.tensor().dim(D::Minus1)?);
    let joined = match applies(x.tensor()) {
        true => cpu::join(x.tensor(), y.tensor(), (a, b))?,
        false => candle::join(x.tensor(), y.tensor())?,
    };
    Ok(Variable::derived(joined, [x, y], move |gradient, [of_x, of_y]| {
        let part = |start: usize, count: usize| match applies(gradient) {
            true => cpu::cut(gradient, start, count),
            false => candle::cut(gradient, start, count),
        };
        Ok([of_x.then(|| part(0, a)).transpose()?, of_y.then(|| part(a, b)).transpose()?])
    }))
}
