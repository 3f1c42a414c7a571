//! Operations in candle's tensors that take a batch chunk by chunk, to bound the memory of their intermediate results.

use candle_core::{D, DType, Result, Tensor};

/// Elements of one chunk. An operation has a few intermediate results of this size in memory, in the wide type.
pub(crate) const CHUNK_FLOATS: usize = 1 << 24;

/// The wide type, in which norms, softmax and sums are computed: f32, or f64 for f64.
pub(crate) fn wide(x: &Tensor) -> DType {
    match x.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}

/// Applies `f` to chunks of the batch, of at most [`CHUNK_FLOATS`] numbers each, and concatenates the results.
///
/// - `size`: how many numbers `f` computes for one element of the batch
pub(crate) fn in_chunks(
    inputs: &[&Tensor],
    size: usize,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Tensor> {
    in_chunks_of(CHUNK_FLOATS, inputs, size, f)
}

/// The same with at most `at_once` numbers in a chunk.
pub(crate) fn in_chunks_of(
    at_once: usize,
    inputs: &[&Tensor],
    size: usize,
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Tensor> {
    let batch = inputs[0].dim(0)?;
    let chunk = (at_once / size.max(1)).max(1);
    let part = |first: usize| -> Result<Tensor> {
        let count = chunk.min(batch - first);
        let cut = |x: &&Tensor| x.narrow(0, first, count)?.contiguous();
        f(&inputs.iter().map(cut).collect::<Result<Vec<_>>>()?)
    };
    let first = part(0)?;
    if chunk >= batch {
        return Ok(first);
    }
    let mut shape = first.dims().to_vec();
    shape[0] = batch;
    let all = Tensor::zeros(shape, first.dtype(), first.device())?;
    all.slice_set(&first, 0, 0)?;
    drop(first);
    for first in (chunk..batch).step_by(chunk) {
        all.slice_set(&part(first)?, 0, first)?;
    }
    Ok(all)
}

/// [`in_chunks`] of operations on the last dimension alone: `f` takes and returns `(rows, …)`.
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
