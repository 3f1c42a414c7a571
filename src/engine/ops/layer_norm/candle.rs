//! Layer normalisation in candle's tensors.

use candle_core::{Result, Tensor};

use crate::engine::ops::chunks::{in_row_chunks, wide};
use crate::engine::ops::cuda::{self, Family};
use crate::engine::ops::normalization::{Affine, normalize, normalize_gradient};

pub(super) fn forward(x: &Tensor, affine: &Affine, eps: f64) -> Result<Tensor> {
    if cuda::has_kernels(x, Family::Norms) {
        return cuda::layer_norm(x, (&affine.weight, &affine.bias), eps, None);
    }
    let (narrow, wide) = (x.dtype(), wide(x));
    let (weight, bias) = (affine.weight.to_dtype(wide)?, affine.bias.to_dtype(wide)?);
    in_row_chunks(&[x], |part| {
        let (normed, _) = normalize(&part[0].to_dtype(wide)?, &[1], eps)?;
        normed.broadcast_mul(&weight)?.broadcast_add(&bias)?.to_dtype(narrow)
    })
}

pub(super) fn backward(x: &Tensor, dy: &Tensor, affine: &Affine, eps: f64) -> Result<Tensor> {
    if cuda::has_kernels(x, Family::Norms) {
        return cuda::layer_norm(x, (&affine.weight, &affine.bias), eps, Some(dy));
    }
    let (narrow, wide) = (x.dtype(), wide(x));
    let weight = affine.weight.to_dtype(wide)?;
    in_row_chunks(&[x, dy], |part| {
        let (normed, rstd) = normalize(&part[0].to_dtype(wide)?, &[1], eps)?;
        let g = part[1].to_dtype(wide)?.broadcast_mul(&weight)?;
        normalize_gradient(&g, &normed, &rstd, &[1])?.to_dtype(narrow)
    })
}
