//! The loops for AVX2.

use std::arch::x86_64::*;

use super::operands::{Run, Strip, Tile};
use crate::engine::ops::gemm::blocking::{PANEL, ROWS, TILE};

/// # Safety
/// AVX2 and FMA, and as for [`super::Kernel::run`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run(strip: Strip<'_>, tile: &Tile<'_>, out: &mut [f32; ROWS * TILE]) {
    for panel in 0..tile.panels {
        let mut row = 0;
        while row < strip.rows {
            // SAFETY: the caller's; both parts stay inside the tile.
            unsafe {
                if strip.rows - row >= 4 {
                    avx2::<4>(strip, row, tile, panel, out);
                    row += 4;
                } else {
                    avx2::<1>(strip, row, tile, panel, out);
                    row += 1;
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize>(
    strip: Strip<'_>,
    row: usize,
    tile: &Tile<'_>,
    panel: usize,
    out: &mut [f32; ROWS * TILE],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    let mut b = tile.data.as_ptr().wrapping_add(panel * tile.stride);
    for Run { starts, length } in strip.runs {
        let Some(starts) = starts else {
            b = b.wrapping_add(length * tile.row_stride);
            continue;
        };
        let mut at = 0;
        for _ in 0..*length {
            // SAFETY: the runs are readable for their lengths, and the panel holds the depth of all of them.
            unsafe {
                let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm256_set1_ps(*starts[row + r].add(at));
                    sums[0] = _mm256_fmadd_ps(factor, columns[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(factor, columns[1], sums[1]);
                }
            }
            at += strip.depth_stride;
            b = b.wrapping_add(tile.row_stride);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let place = out[(row + r) * TILE + panel * PANEL..][..PANEL].as_mut_ptr();
        // SAFETY: sixteen places, as sliced.
        unsafe {
            _mm256_storeu_ps(place, sums[0]);
            _mm256_storeu_ps(place.add(8), sums[1]);
        }
    }
}
