//! Matrix products in candle's tensors.

use candle_core::{Result, Tensor};

pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.contiguous()?.matmul(&b.contiguous()?)
}

pub(super) fn matmul_stacked(a: &Tensor, b: &[&Tensor], widths: &[usize]) -> Result<Vec<Tensor>> {
    let c = a.contiguous()?.matmul(&Tensor::cat(b, 0)?)?;
    let mut start = 0;
    let cut = |&width: &usize| {
        let part = c.narrow(1, start, width)?.contiguous();
        start += width;
        part
    };
    widths.iter().map(cut).collect()
}
