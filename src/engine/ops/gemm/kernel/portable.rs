//! The kernel for any CPU.

use super::operands::{MicroPanel, Run, Strip};
use crate::engine::ops::gemm::blocking::{MR, NR, PANEL};

/// # Safety
/// As for [`super::Kernel::run`].
pub(super) unsafe fn run(strip: Strip<'_>, micro_panel: &MicroPanel<'_>, out: &mut [f32; MR * NR]) {
    for row in 0..strip.rows {
        for panel in 0..micro_panel.panels {
            let mut sums = [0.0f32; PANEL];
            let mut depth = 0;
            for Run { starts, length } in strip.runs {
                let first = panel * micro_panel.stride + depth * micro_panel.row_stride;
                depth += length;
                let Some(starts) = starts else { continue };
                for k in 0..*length {
                    let b = &micro_panel.data[first + k * micro_panel.row_stride..][..PANEL];
                    // SAFETY: the run is readable for its length.
                    let a = unsafe { *starts[row].add(k * strip.depth_stride) };
                    sums.iter_mut().zip(b).for_each(|(sum, b)| *sum = a.mul_add(*b, *sum));
                }
            }
            out[row * NR + panel * PANEL..][..PANEL].copy_from_slice(&sums);
        }
    }
}
