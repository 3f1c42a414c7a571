//! Matrix product with a frozen matrix.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{applies, filled, values};
use super::product::{Add, Left, Panels, multiply};

/// Rows of one task.
const ROWS: usize = 64;

/// `x Wᵀ + b` whose `W` and `b` take no gradient; `dx = dy W`.
#[derive(Clone)]
pub struct FrozenLinear(Arc<Matrix>);

struct Matrix {
    /// `(out_features, in_features)`.
    weight: Tensor,
    bias: Option<Tensor>,
    bias_values: Option<Vec<f32>>,
    /// `Wᵀ` and, for the gradient, `W`, packed for the CPU when first used.
    packed: OnceLock<Panels>,
    packed_back: OnceLock<Panels>,
}

impl FrozenLinear {
    /// - `weight`: `(out_features, in_features)`
    /// - `bias`: `(out_features,)`
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let bias_values = match &bias {
            Some(bias) if applies(bias) => Some(bias.to_vec1()?),
            Some(_) | None => None,
        };
        let (packed, packed_back) = (OnceLock::new(), OnceLock::new());
        Ok(Self(Arc::new(Matrix { weight, bias, bias_values, packed, packed_back })))
    }

    /// `(…, in_features)` → `(…, out_features)`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if applies(x) {
            return x.contiguous()?.apply_op1(Multiply { linear: self.clone(), back: false });
        }
        let mut shape = x.dims().to_vec();
        let width = shape.pop().unwrap_or(0);
        let y = x.reshape(((), width))?.matmul(&self.0.weight.t()?)?;
        let y = match &self.0.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        shape.push(self.0.weight.dim(0)?);
        y.reshape(shape)
    }
}

/// The product on candle's tape: `x Wᵀ + b`, or with `back` the gradient's `dy W`.
struct Multiply {
    linear: FrozenLinear,
    back: bool,
}

impl CustomOp1 for Multiply {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let matrix = &*self.linear.0;
        let (out_features, in_features) = matrix.weight.dims2()?;
        let (depth, width) =
            if self.back { (out_features, in_features) } else { (in_features, out_features) };
        let mut shape = layout.dims().to_vec();
        match shape.last_mut() {
            Some(last) if *last == depth => *last = width,
            Some(_) | None => {
                bail!("rows of {:?} under a matrix that takes {depth}", layout.dims())
            }
        }
        let x = values(storage, layout)?;
        let packed = if self.back { &matrix.packed_back } else { &matrix.packed };
        if packed.get().is_none() {
            let weight: Vec<f32> = matrix.weight.flatten_all()?.to_vec1()?;
            let panels = match self.back {
                false => Panels::from_columns(&weight, in_features, depth, width),
                true => Panels::from_rows(&weight, in_features, depth, width),
            };
            let _ = packed.set(panels);
        }
        let Some(panels) = packed.get() else { bail!("the packed matrix is gone") };
        let add = match &matrix.bias_values {
            Some(bias) if !self.back => Add::PerColumn(bias),
            Some(_) | None => Add::Nothing,
        };

        let rows = x.len() / depth;
        let task = |(y, x): (&mut [f32], &[f32])| {
            let left = Left { data: x, rows: x.len() / depth, row_stride: depth, depth_stride: 1 };
            multiply(left, panels, add, y, width);
        };
        let y = filled(rows * width, |y| {
            if rows * depth * width < 200_000 {
                task((y, x));
            } else {
                y.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * depth)).for_each(task);
            }
        });
        Ok((CpuStorage::F32(y), shape.into()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let back = Self { linear: self.linear.clone(), back: true };
        Ok(Some(gradient.contiguous()?.apply_op1_no_bwd(&back)?))
    }
}
