//! The shapes of arguments and results.

use candle_core::{Result, Tensor, bail};

/// Refuses tensors of different shapes: the kernels go through them side by side.
pub(crate) fn same(x: &Tensor, y: &Tensor) -> Result<()> {
    match x.dims() == y.dims() {
        true => Ok(()),
        false => bail!("an argument of {:?} beside one of {:?}", y.dims(), x.dims()),
    }
}

/// Refuses a bias that has not one value for each of `features`.
pub(crate) fn check_bias(bias: Option<&Tensor>, features: usize) -> Result<()> {
    match bias {
        Some(bias) if bias.dims() != [features] => {
            bail!("a bias of {:?} for {features} features", bias.dims())
        }
        Some(_) | None => Ok(()),
    }
}

/// The shape of `x` with `to` in place of its last dimension, which must be `from`.
pub(crate) fn replace_last(x: &Tensor, from: usize, to: usize) -> Result<Vec<usize>> {
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == from => *last = to,
        Some(_) | None => bail!("an input of {:?} for a matrix of {from} columns", x.dims()),
    }
    Ok(shape)
}
