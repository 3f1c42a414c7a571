//! Sums, joins and transpositions between the layers, in parallel and with lean gradients.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{applies, filled, values};

/// Values of one task.
const CHUNK: usize = 16384;
/// Side of the squares in which a matrix is transposed.
const SQUARE: usize = 16;

/// `x + y`, both of one shape.
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if applies(x) && x.dims() == y.dims() {
        x.contiguous()?.apply_op2(&y.contiguous()?, Sum)
    } else {
        x + y
    }
}

/// Adds one number per channel, `(batch, channels, h, w) + (batch, channels)`; the second takes no gradient.
pub fn add_per_channel(x: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let (batch, channels) = shift.dims2()?;
    if applies(x) {
        return x.contiguous()?.apply_op1(Shift(shift.flatten_all()?.to_vec1()?));
    }
    x.broadcast_add(&shift.detach().reshape((batch, channels, 1, 1))?)
}

/// `(batch, a, h, w)` and `(batch, b, h, w)` → `(batch, a + b, h, w)`.
pub fn concat_channels(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if applies(x) {
        x.contiguous()?.apply_op2(&y.contiguous()?, Join)
    } else {
        Tensor::cat(&[x, y], 1)
    }
}

/// Exchanges the last two dimensions: `(batch, rows, columns)` → `(batch, columns, rows)`, contiguous.
pub fn transpose_last(x: &Tensor) -> Result<Tensor> {
    if applies(x) { x.contiguous()?.apply_op1(Transpose) } else { x.transpose(1, 2)?.contiguous() }
}

struct Sum;

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (values(x, x_layout)?, values(y, y_layout)?);
        let sum = filled(x.len(), |sum| {
            sum.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(y.par_chunks(CHUNK)).for_each(
                |((sum, x), y)| {
                    sum.iter_mut().zip(x).zip(y).for_each(|((sum, x), y)| *sum = x + y);
                },
            );
        });
        Ok((CpuStorage::F32(sum), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _y: &Tensor,
        _sum: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(gradient.clone()), Some(gradient.clone())))
    }
}

struct Shift(Vec<f32>);

impl CustomOp1 for Shift {
    fn name(&self) -> &'static str {
        "add-per-channel"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (batch, channels, height, width) = layout.shape().dims4()?;
        if self.0.len() != batch * channels {
            bail!("{} shifts for {batch}×{channels} channels", self.0.len());
        }
        let y = filled(x.len(), |y| {
            let pixels = height * width;
            y.par_chunks_mut(pixels)
                .zip(x.par_chunks(pixels))
                .zip(&self.0)
                .with_min_len(8)
                .for_each(|((y, x), shift)| {
                    y.iter_mut().zip(x).for_each(|(y, x)| *y = x + shift);
                });
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.clone()))
    }
}

struct Join;

impl CustomOp2 for Join {
    fn name(&self) -> &'static str {
        "concat-channels"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        y: &CpuStorage,
        y_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, a, height, width) = x_layout.shape().dims4()?;
        let (_, b, _, _) = y_layout.shape().dims4()?;
        if y_layout.dims() != [batch, b, height, width] {
            bail!("channels of {:?} and {:?} do not join", x_layout.dims(), y_layout.dims());
        }
        let (x, y) = (values(x, x_layout)?, values(y, y_layout)?);
        let (first, second) = (a * height * width, b * height * width);
        let joined = filled(x.len() + y.len(), |joined| {
            joined
                .par_chunks_mut(first + second)
                .zip(x.par_chunks(first))
                .zip(y.par_chunks(second))
                .for_each(|((joined, x), y)| {
                    joined[..first].copy_from_slice(x);
                    joined[first..].copy_from_slice(y);
                });
        });
        Ok((CpuStorage::F32(joined), (batch, a + b, height, width).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        y: &Tensor,
        _joined: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (a, b) = (x.dim(1)?, y.dim(1)?);
        Ok((
            Some(gradient.narrow(1, 0, a)?.contiguous()?),
            Some(gradient.narrow(1, a, b)?.contiguous()?),
        ))
    }
}

struct Transpose;

impl CustomOp1 for Transpose {
    fn name(&self) -> &'static str {
        "transpose-last"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let (batch, rows, columns) = layout.shape().dims3()?;
        let y = filled(x.len(), |y| {
            y.par_chunks_mut(rows * columns).zip(x.par_chunks(rows * columns)).for_each(
                |(y, x)| {
                    for row in (0..rows).step_by(SQUARE) {
                        for column in (0..columns).step_by(SQUARE) {
                            for c in column..columns.min(column + SQUARE) {
                                for r in row..rows.min(row + SQUARE) {
                                    y[c * rows + r] = x[r * columns + c];
                                }
                            }
                        }
                    }
                },
            );
        });
        Ok((CpuStorage::F32(y), (batch, columns, rows).into()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.contiguous()?.apply_op1_no_bwd(&Transpose)?))
    }
}
