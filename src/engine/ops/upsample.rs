//! Nearest-neighbour upsampling.

mod candle;
mod cpu;

use candle_core::Result;

use super::buffer::has_kernels;
use crate::engine::autograd::Variable;

/// Doubles height and width by repeating pixels, without the last row or column where `height` or `width` is odd.
///
/// `(batch, ⌈height/2⌉, ⌈width/2⌉, channels)` → `(batch, height, width, channels)`. The gradient of a pixel is the sum
/// over its copies.
pub fn upsample_nearest_2x(x: &Variable, height: usize, width: usize) -> Result<Variable> {
    let (_, h, w, _) = x.tensor().dims4()?;

    let y = match has_kernels(x.tensor()) {
        true => cpu::forward(&x.tensor().contiguous()?, height, width)?,
        false => candle::forward(x.tensor(), height, width)?,
    };
    Ok(Variable::derived(y, [x], move |dy, _| {
        let dx = match has_kernels(dy) {
            true => cpu::backward(&dy.contiguous()?, h, w)?,
            false => candle::backward(dy, h, w)?,
        };
        Ok([Some(dx)])
    }))
}
