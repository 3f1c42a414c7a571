//! The shapes of results.

use candle_core::{Result, Tensor, bail};

/// The shape of `x` with `to` in place of its last dimension, which must be `from`.
pub(crate) fn replace_last(x: &Tensor, from: usize, to: usize) -> Result<Vec<usize>> {
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == from => *last = to,
        Some(_) | None => bail!("an input of {:?} for a matrix of {from} columns", x.dims()),
    }
    Ok(shape)
}
