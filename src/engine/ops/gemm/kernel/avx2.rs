//! The kernel for AVX2.

use std::arch::x86_64::*;

use super::operands::{MicroPanel, Run, Strip};
use crate::engine::ops::gemm::blocking::{MR, NR, PANEL};

/// # Safety
/// The CPU must have AVX2 and FMA. The rest is as for [`super::Kernel::run`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run(strip: Strip<'_>, micro_panel: &MicroPanel<'_>, out: &mut [f32; MR * NR]) {
    for panel in 0..micro_panel.panels {
        let mut row = 0;
        while row < strip.rows {
            // SAFETY: the caller upholds the contract, and these rows are inside the strip.
            unsafe {
                if strip.rows - row >= 4 {
                    avx2::<4>(strip, row, micro_panel, panel, out);
                    row += 4;
                } else {
                    avx2::<1>(strip, row, micro_panel, panel, out);
                    row += 1;
                }
            }
        }
    }
}

/// `R` rows from `row` on, times one panel.
///
/// # Safety
/// As for [`run`], with the rows inside the strip.
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const R: usize>(
    strip: Strip<'_>,
    row: usize,
    micro_panel: &MicroPanel<'_>,
    panel: usize,
    out: &mut [f32; MR * NR],
) {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    let mut b = micro_panel.data.as_ptr().wrapping_add(panel * micro_panel.stride);
    for Run { starts, length } in strip.runs {
        let Some(starts) = starts else {
            b = b.wrapping_add(length * micro_panel.row_stride);
            continue;
        };
        let mut at = 0;
        for _ in 0..*length {
            // SAFETY: the runs are readable for their lengths, and the panel holds all of them.
            unsafe {
                let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm256_set1_ps(*starts[row + r].add(at));
                    sums[0] = _mm256_fmadd_ps(factor, columns[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(factor, columns[1], sums[1]);
                }
            }
            at += strip.depth_stride;
            b = b.wrapping_add(micro_panel.row_stride);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let place = out[(row + r) * NR + panel * PANEL..][..PANEL].as_mut_ptr();
        // SAFETY: the slice has sixteen places.
        unsafe {
            _mm256_storeu_ps(place, sums[0]);
            _mm256_storeu_ps(place.add(8), sums[1]);
        }
    }
}
