//! Linear layers on the CPU.

use candle_core::{Result, Tensor};

use crate::engine::ops::activation;
use crate::engine::ops::buffer::{filled, tensor, values};
use crate::engine::ops::gemm::{Epilogue, FrozenMatrix, Right, par_gemm_rows, par_gemm_rows_then};
use crate::engine::ops::weight::CpuWeight;

pub(super) struct Matrix {
    /// `W`, `(out_features, in_features)`.
    matrix: FrozenMatrix,
    bias: Option<Vec<f32>>,
}

impl Matrix {
    pub(super) fn new(
        weight: CpuWeight,
        bias: Option<Tensor>,
        (out_features, in_features): (usize, usize),
    ) -> Result<Self> {
        let bias = bias.map(|bias| bias.to_vec1()).transpose()?;
        Ok(Self { matrix: FrozenMatrix::new(weight, out_features, in_features), bias })
    }

    /// `x Wᵀ + b + other`, of `shape`.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        other: Option<&Tensor>,
        shape: Vec<usize>,
    ) -> Result<Tensor> {
        let factor = self.matrix.forward_factor();
        multiply(x, factor.right(), self.bias.as_deref(), other, shape)
    }

    /// `function(x Wᵀ + b)`, of `shape`.
    pub(super) fn forward_activated(
        &self,
        x: &Tensor,
        function: activation::Function,
        shape: Vec<usize>,
    ) -> Result<Tensor> {
        let factor = self.matrix.forward_factor();
        let right = factor.right();
        let x = x.contiguous()?;
        let epilogue = Epilogue { bias: self.bias.as_deref(), ..Epilogue::default() };
        let mut y = filled(shape.iter().product(), |_| {});
        par_gemm_rows_then(&values(&x)?, right, epilogue, &mut y, |values| {
            activation::apply_on_cpu(function, values);
        });
        tensor(y, shape)
    }

    /// `dy W + other`, of `shape`.
    pub(super) fn backward(
        &self,
        dy: &Tensor,
        other: Option<&Tensor>,
        shape: Vec<usize>,
    ) -> Result<Tensor> {
        let factor = self.matrix.backward_factor();
        multiply(dy, factor.right(), None, other, shape)
    }
}

/// The product with a right factor, plus `bias` and `other`, of `shape`.
fn multiply(
    x: &Tensor,
    right: Right<'_>,
    bias: Option<&[f32]>,
    other: Option<&Tensor>,
    shape: Vec<usize>,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let other = other.map(|other| other.contiguous()).transpose()?;
    let other = other.as_ref().map(values).transpose()?;
    let addend = other.as_ref().map(|other| (&**other, right.width()));
    let mut y = filled(shape.iter().product(), |_| {});
    par_gemm_rows(&values(&x)?, right, Epilogue { bias, addend, accumulate: false }, &mut y);
    tensor(y, shape)
}
