//! Matrix products with a frozen matrix, and of two tensors.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{applies, filled, tensor, values};
use super::product::{
    Add, FrozenMatrix, Left, PANEL, Panels, Right, multiply_rows, multiply_shared,
    multiply_stacked, pack_rows,
};
use super::stored::{self, FrozenWeight};
use crate::engine::autograd::Variable;

/// `x Wᵀ + b` whose `W` and `b` take no gradient; `dx = dy W`.
#[derive(Clone)]
pub struct FrozenLinear(Arc<Matrix>);

struct Matrix {
    in_features: usize,
    out_features: usize,
    place: Place,
}

/// The matrix, where it is used.
enum Place {
    Cpu {
        /// `W`, `(out_features, in_features)`.
        matrix: FrozenMatrix,
        bias: Option<Vec<f32>>,
    },
    Elsewhere {
        /// `W`, `(out_features, in_features)`.
        weight: Tensor,
        bias: Option<Tensor>,
    },
}

impl FrozenLinear {
    /// - `weight`: `(out_features, in_features)`
    /// - `bias`: `(out_features,)`
    pub fn new(weight: impl Into<FrozenWeight>, bias: Option<Tensor>) -> Result<Self> {
        let weight = weight.into();
        let [out_features, in_features] = *weight.shape() else {
            bail!("a matrix of {:?}", weight.shape());
        };
        let place = match weight.place()? {
            stored::Place::Cpu(stored) => Place::Cpu {
                matrix: FrozenMatrix::new(stored, out_features, in_features),
                bias: bias.map(|bias| bias.to_vec1()).transpose()?,
            },
            stored::Place::Elsewhere(weight) => Place::Elsewhere { weight, bias },
        };
        Ok(Self(Arc::new(Matrix { in_features, out_features, place })))
    }

    /// `(…, in_features)` → `(…, out_features)`.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        let y = self.multiply(x.tensor(), None)?;
        let linear = self.clone();
        Ok(Variable::derived(y, [x], move |dy, _| Ok([Some(linear.multiply_back(dy)?)])))
    }

    /// [`Self::forward`] plus `other`, which has the shape of the result.
    pub fn forward_add(&self, x: &Variable, other: &Variable) -> Result<Variable> {
        let y = self.multiply(x.tensor(), Some(other.tensor()))?;
        let linear = self.clone();
        Ok(Variable::derived(y, [x, other], move |dy, [wanted, _]| {
            let dx = wanted.then(|| linear.multiply_back(dy)).transpose()?;
            Ok([dx, Some(dy.clone())])
        }))
    }

    fn multiply(&self, x: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
        let Matrix { in_features, out_features, place } = &*self.0;
        let shape = replace_last(x, *in_features, *out_features)?;
        match place {
            Place::Cpu { matrix, bias } => {
                let x = x.contiguous()?;
                let other = add.map(|other| other.contiguous()).transpose()?;
                let other = other.as_ref().map(values).transpose()?;
                let add = Add {
                    per_column: bias.as_deref(),
                    matrix: other.as_ref().map(|other| (&**other, *out_features)),
                    present: false,
                };
                let mut y = filled(shape.iter().product(), |_| {});
                multiply_rows(&values(&x)?, matrix.right(), add, &mut y);
                tensor(y, shape)
            }
            Place::Elsewhere { weight, bias } => {
                let y = x.reshape(((), *in_features))?.matmul(&weight.t()?)?;
                let y = match bias {
                    Some(bias) => y.broadcast_add(bias)?,
                    None => y,
                };
                let y = y.reshape(shape)?;
                match add {
                    Some(other) => y + other,
                    None => Ok(y),
                }
            }
        }
    }

    fn multiply_back(&self, dy: &Tensor) -> Result<Tensor> {
        let Matrix { in_features, out_features, place } = &*self.0;
        let shape = replace_last(dy, *out_features, *in_features)?;
        match place {
            Place::Cpu { matrix, .. } => {
                let dy = dy.contiguous()?;
                let mut dx = filled(shape.iter().product(), |_| {});
                multiply_rows(&values(&dy)?, matrix.turned(), Add::default(), &mut dx);
                tensor(dx, shape)
            }
            Place::Elsewhere { weight, .. } => {
                dy.reshape(((), *out_features))?.matmul(weight)?.reshape(shape)
            }
        }
    }
}

/// `a b`, of matrices `(rows, depth)` and `(depth, columns)`, either of which may be a transposed view.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !applies(a) || !applies(b) {
        return a.contiguous()?.matmul(&b.contiguous()?);
    }
    let ((rows, depth), (other, width)) = (a.dims2()?, b.dims2()?);
    if depth != other {
        bail!("a matrix of {depth} columns does not multiply one of {other} rows");
    }
    let (kept_a, turned_a) = as_it_lies(a)?;
    let (kept_b, turned_b) = as_it_lies(b)?;
    let (a, b) = (values(&kept_a)?, values(&kept_b)?);
    let (data, b): (&[f32], &[f32]) = (&a, &b);
    let packed;
    let right = if turned_b {
        Right::Columns { data: b, depth, width }
    } else if width.is_multiple_of(PANEL) {
        Right::Rows { data: b, stride: width, width }
    } else {
        packed = Panels::filled(depth, width, |index, panel| {
            pack_rows(b, width, depth, width, index, panel);
        });
        Right::Panels(packed.view())
    };
    let (row_stride, depth_stride) = if turned_a { (1, rows) } else { (depth, 1) };
    let left = Left::Strided { data, rows, row_stride, depth_stride };
    let mut c = filled(rows * width, |_| {});
    multiply_shared(left, right, Add::default(), &mut c);
    tensor(c, (rows, width))
}

/// `a b` of matrices `(rows, Σ depth)` and `(depth, Σ width)` each, those of `b` one below the other but not joined: a
/// copy would cost more than the product if there are few rows. The result is cut into `(rows, width)` each.
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
    let starts: Vec<usize> =
        widths.iter().scan(0, |next, width| Some(std::mem::replace(next, *next + width))).collect();
    if !applies(a) || b.iter().any(|part| !applies(part)) || width == 0 {
        let c = a.contiguous()?.matmul(&Tensor::cat(b, 0)?)?;
        let cut = |(&start, &width): (&usize, &usize)| c.narrow(1, start, width)?.contiguous();
        return starts.iter().zip(widths).map(cut).collect();
    }
    let kept = b.iter().map(|part| part.contiguous()).collect::<Result<Vec<_>>>()?;
    let parts = kept.iter().map(values).collect::<Result<Vec<_>>>()?;
    let parts: Vec<&[f32]> = parts.iter().map(|part| &**part).collect();
    let a = a.contiguous()?;
    let a = values(&a)?;
    let a = Left::rows(&a, depth);
    let product = |(&start, &own): (&usize, &usize)| {
        let c = filled(rows * own, |c| {
            multiply_stacked(a, &parts, width, start..start + own, c);
        });
        tensor(c, (rows, own))
    };
    starts.par_iter().zip(widths).map(product).collect()
}

/// A matrix as row-major rows, or its transpose so, and which of the two.
fn as_it_lies(x: &Tensor) -> Result<(Tensor, bool)> {
    let turned = x.t()?;
    match !x.is_contiguous() && turned.is_contiguous() {
        true => Ok((turned, true)),
        false => Ok((x.contiguous()?, false)),
    }
}

/// The shape of `x` with `to` in place of its last dimension, which must be `from`.
pub(super) fn replace_last(x: &Tensor, from: usize, to: usize) -> Result<Vec<usize>> {
    let mut shape = x.dims().to_vec();
    match shape.last_mut() {
        Some(last) if *last == from => *last = to,
        Some(_) | None => bail!("rows of {:?} under a matrix that takes {from}", x.dims()),
    }
    Ok(shape)
}
