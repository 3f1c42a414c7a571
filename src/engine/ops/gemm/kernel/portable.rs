//! The loops for any CPU.

use super::operands::{Run, Strip, Tile};
use crate::engine::ops::gemm::blocking::{PANEL, ROWS, TILE};

/// # Safety
/// As for [`super::Kernel::run`].
pub(super) unsafe fn run(strip: Strip<'_>, tile: &Tile<'_>, out: &mut [f32; ROWS * TILE]) {
    for row in 0..strip.rows {
        for panel in 0..tile.panels {
            let mut sums = [0.0f32; PANEL];
            let mut depth = 0;
            for Run { starts, length } in strip.runs {
                let first = panel * tile.stride + depth * tile.row_stride;
                depth += length;
                let Some(starts) = starts else { continue };
                for k in 0..*length {
                    let b = &tile.data[first + k * tile.row_stride..][..PANEL];
                    // SAFETY: the run is readable for its length.
                    let a = unsafe { *starts[row].add(k * strip.depth_stride) };
                    sums.iter_mut().zip(b).for_each(|(sum, b)| *sum = a.mul_add(*b, *sum));
                }
            }
            out[row * TILE + panel * PANEL..][..PANEL].copy_from_slice(&sums);
        }
    }
}
