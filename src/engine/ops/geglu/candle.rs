//! The gate of GEGLU in candle's tensors, given the projection.

use candle_core::{D, Result, Tensor};

use crate::engine::ops::activation::Function;
use crate::engine::ops::chunks::{in_row_chunks, wide};
use crate::engine::ops::cuda::{self, Family};

/// `a · gelu(gate)` of the halves of the last dimension.
pub(super) fn forward(projected: &Tensor) -> Result<Tensor> {
    if cuda::has_kernels(projected, Family::Pointwise) {
        return cuda::geglu(projected, None);
    }
    let narrow = projected.dtype();
    in_row_chunks(&[projected], |part| {
        let (a, gate) = halves(&part[0])?;
        (a * Function::Gelu.value(&gate)?)?.to_dtype(narrow)
    })
}

/// The gradient of the projection from that of the result.
pub(super) fn backward(projected: &Tensor, dy: &Tensor) -> Result<Tensor> {
    if cuda::has_kernels(projected, Family::Pointwise) {
        return cuda::geglu(projected, Some(dy));
    }
    let narrow = projected.dtype();
    in_row_chunks(&[projected, dy], |part| {
        let (a, gate) = halves(&part[0])?;
        let dy = part[1].to_dtype(gate.dtype())?;
        let da = (&dy * Function::Gelu.value(&gate)?)?.to_dtype(narrow)?;
        let d_gate = ((dy * a)? * Function::Gelu.slope(&gate)?)?;
        Tensor::cat(&[da, d_gate.to_dtype(narrow)?], D::Minus1)
    })
}

/// `a` and `gate`, in a wide type.
fn halves(projected: &Tensor) -> Result<(Tensor, Tensor)> {
    let half = projected.dim(D::Minus1)? / 2;
    let cut = |start: usize| {
        projected.narrow(D::Minus1, start, half)?.contiguous()?.to_dtype(wide(projected))
    };
    Ok((cut(0)?, cut(half)?))
}
