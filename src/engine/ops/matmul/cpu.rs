//! Matrix products on the CPU.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use crate::engine::ops::buffer::{filled, tensor, values};
use crate::engine::ops::gemm::{
    Epilogue, Left, Numbers, PANEL, Panels, Right, gemm_stacked, pack_rows, par_gemm, transpose,
};

pub(super) fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let ((rows, depth), (other, width)) = (a.dims2()?, b.dims2()?);
    if depth != other {
        bail!("a matrix of {depth} columns does not multiply one of {other} rows");
    }
    let (stored_a, a_transposed) = contiguous_or_transposed(a)?;
    let (stored_b, b_transposed) = contiguous_or_transposed(b)?;
    let (a, b) = (values(&stored_a)?, values(&stored_b)?);
    let (data, b): (&[f32], &[f32]) = (&a, &b);
    let packed;
    let right = if b_transposed {
        Right::Transposed { data: b, depth, width }
    } else if width.is_multiple_of(PANEL) {
        Right::Rows { data: b, stride: width, width, numbers: Numbers::Floats }
    } else {
        packed = Panels::filled(depth, width, |index, panel| {
            pack_rows(b, width, depth, width, index, panel);
        });
        Right::Packed(packed.view())
    };
    let row_major;
    let data = match a_transposed {
        true => {
            row_major = transposed(data, depth, rows);
            &row_major
        }
        false => data,
    };
    let left = Left::Strided { data, rows, row_stride: depth, depth_stride: 1 };
    let mut c = filled(rows * width, |_| {});
    par_gemm(left, right, Epilogue::default(), &mut c);
    tensor(c, (rows, width))
}

pub(super) fn matmul_stacked(a: &Tensor, b: &[&Tensor], widths: &[usize]) -> Result<Vec<Tensor>> {
    let (rows, depth) = a.dims2()?;
    let width: usize = widths.iter().sum();
    let starts: Vec<usize> =
        widths.iter().scan(0, |next, width| Some(std::mem::replace(next, *next + width))).collect();
    let contiguous = b.iter().map(|part| part.contiguous()).collect::<Result<Vec<_>>>()?;
    let parts = contiguous.iter().map(values).collect::<Result<Vec<_>>>()?;
    let parts: Vec<&[f32]> = parts.iter().map(|part| &**part).collect();
    let a = a.contiguous()?;
    let a = values(&a)?;
    let a = Left::rows(&a, depth);
    let product = |(&start, &own): (&usize, &usize)| {
        let c = filled(rows * own, |c| {
            gemm_stacked(a, &parts, width, start..start + own, c);
        });
        tensor(c, (rows, own))
    };
    starts.par_iter().zip(widths).map(product).collect()
}

/// A matrix, or its transpose if that is what is contiguous, and whether it is the transpose.
fn contiguous_or_transposed(x: &Tensor) -> Result<(Tensor, bool)> {
    let transposed = x.t()?;
    match !x.is_contiguous() && transposed.is_contiguous() {
        true => Ok((transposed, true)),
        false => Ok((x.contiguous()?, false)),
    }
}

/// The transpose of a row-major `(rows, columns)` matrix.
///
/// The kernel could read it where it lies, but rows are many pages apart there.
fn transposed(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    filled(data.len(), |to| {
        to.par_chunks_mut((PANEL * rows).max(1)).enumerate().for_each(|(index, to)| {
            let mut square = [[0.0; PANEL]; PANEL];
            for row in (0..rows).step_by(PANEL) {
                let (own, count) = (to.len() / rows, PANEL.min(rows - row));
                let from = &data[row * columns + index * PANEL..];
                transpose(from, columns, count, &mut square[..own]);
                for (to, from) in to.chunks_exact_mut(rows).zip(&square) {
                    to[row..row + count].copy_from_slice(&from[..count]);
                }
            }
        });
    })
}
