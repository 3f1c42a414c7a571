//! Matrix products of tensors.

mod candle;
mod cpu;

use candle_core::{Result, Tensor, bail};

use super::buffer::has_kernels;

/// `a b`, of matrices `(rows, depth)` and `(depth, columns)`, either of which may be a transposed view.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match has_kernels(a) && has_kernels(b) {
        true => cpu::matmul(a, b),
        false => candle::matmul(a, b),
    }
}

/// `a b`, where `b` is given as parts that are stacked vertically. The result is cut into column blocks of `widths`.
///
/// The parts are not concatenated: with few rows, the copy would cost more than the product.
///
/// - `a`: `(rows, Σ depth)`
/// - `b`: `(depth, Σ width)` each
/// - returns `(rows, width)` each
pub fn matmul_stacked(a: &Tensor, b: &[&Tensor], widths: &[usize]) -> Result<Vec<Tensor>> {
    let (rows, depth) = a.dims2()?;
    let width: usize = widths.iter().sum();
    let depths = b.iter().map(|part| Ok((part.dim(0)?, part.dim(1)?)));
    let depths = depths.collect::<Result<Vec<_>>>()?;
    if depths.iter().map(|(depth, _)| depth).sum::<usize>() != depth
        || depths.iter().any(|&(_, other)| other != width)
    {
        bail!("({rows}, {depth}) does not multiply {depths:?} to {width} columns");
    }
    match has_kernels(a) && b.iter().all(|part| has_kernels(part)) && width > 0 {
        true => cpu::matmul_stacked(a, b, widths),
        false => candle::matmul_stacked(a, b, widths),
    }
}
