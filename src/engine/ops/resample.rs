//! Change of image size between the levels of a model.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{applies, filled, values};

/// Doubles height and width by repetition: `(batch, channels, h, w)` → `(batch, channels, 2h, 2w)`.
///
/// The gradient of a pixel is the sum over its four copies.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    if applies(x) {
        return x.contiguous()?.apply_op1(Double);
    }
    let (b, c, h, w) = x.dims4()?;
    x.reshape((b, c, h, 1, w, 1))?.broadcast_as((b, c, h, 2, w, 2))?.reshape((b, c, 2 * h, 2 * w))
}

/// The repetition on candle's tape.
struct Double;

/// Sums over 2×2 pixels.
struct Halve;

impl CustomOp1 for Double {
    fn name(&self) -> &'static str {
        "upsample-nearest-2x"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, h, w) = layout.shape().dims4()?;
        let x = values(storage, layout)?;
        let y = filled(4 * x.len(), |y| {
            y.par_chunks_mut(4 * h * w).zip(x.par_chunks(h * w)).for_each(|(y, x)| {
                for (rows, x) in y.chunks_exact_mut(4 * w).zip(x.chunks_exact(w)) {
                    let (first, second) = rows.split_at_mut(2 * w);
                    for (pair, &x) in first.chunks_exact_mut(2).zip(x) {
                        pair.fill(x);
                    }
                    second.copy_from_slice(first);
                }
            });
        });
        Ok((CpuStorage::F32(y), (b, c, 2 * h, 2 * w).into()))
    }

    fn bwd(&self, _x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.contiguous()?.apply_op1_no_bwd(&Halve)?))
    }
}

impl CustomOp1 for Halve {
    fn name(&self) -> &'static str {
        "upsample-nearest-2x-back"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (b, c, height, width) = layout.shape().dims4()?;
        let (h, w) = (height / 2, width / 2);
        let dy = values(storage, layout)?;
        let dx = filled(dy.len() / 4, |dx| {
            dx.par_chunks_mut(h * w).zip(dy.par_chunks(height * width)).for_each(|(dx, dy)| {
                for (dx, rows) in dx.chunks_exact_mut(w).zip(dy.chunks_exact(2 * width)) {
                    let (first, second) = rows.split_at(width);
                    for ((dx, a), b) in
                        dx.iter_mut().zip(first.chunks_exact(2)).zip(second.chunks_exact(2))
                    {
                        *dx = (a[0] + a[1]) + (b[0] + b[1]);
                    }
                }
            });
        });
        Ok((CpuStorage::F32(dx), (b, c, h, w).into()))
    }
}
