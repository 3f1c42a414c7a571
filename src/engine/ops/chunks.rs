//! A batch that goes through candle's tensors in groups, with sums in a wide type.

use candle_core::{D, DType, Result, Tensor};

/// Numbers that an operation holds in a wide type at once, times the few steps that it takes: a batch goes through in
/// groups of rows.
pub(crate) const CHUNK_FLOATS: usize = 1 << 24;

/// The type that sums over many numbers are taken in.
pub(crate) fn wide(x: &Tensor) -> DType {
    match x.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Applies `f` to groups of rows, of which each is `size` numbers, so that it never holds more than [`CHUNK_FLOATS`] of them
/// in a wide type; what it returns is put together again.
pub(crate) fn in_chunks(
    inputs: &[&Tensor],
    size: usize,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Tensor> {
    let rows = inputs[0].dim(0)?;
    let group = (CHUNK_FLOATS / size.max(1)).max(1);
    let part = |first: usize| -> Result<Tensor> {
        let count = group.min(rows - first);
        let cut = |x: &&Tensor| x.narrow(0, first, count)?.contiguous();
        f(&inputs.iter().map(cut).collect::<Result<Vec<_>>>()?)
    };
    let first = part(0)?;
    if group >= rows {
        return Ok(first);
    }
    let mut shape = first.dims().to_vec();
    shape[0] = rows;
    let all = Tensor::zeros(shape, first.dtype(), first.device())?;
    all.slice_set(&first, 0, 0)?;
    drop(first);
    for first in (group..rows).step_by(group) {
        all.slice_set(&part(first)?, 0, first)?;
    }
    Ok(all)
}

/// [`in_chunks`] of operations on each row of the last dimension: `f` takes and returns `(rows, …)`.
pub(crate) fn in_row_chunks(
    inputs: &[&Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Tensor> {
    let width = inputs[0].dim(D::Minus1)?;
    let flat = |x: &&Tensor| x.reshape(((), x.dim(D::Minus1)?));
    let flat = inputs.iter().map(flat).collect::<Result<Vec<_>>>()?;
    let y = in_chunks(&flat.iter().collect::<Vec<_>>(), width, f)?;
    let mut shape = inputs[0].dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = y.dim(1)?;
    }
    y.reshape(shape)
}
