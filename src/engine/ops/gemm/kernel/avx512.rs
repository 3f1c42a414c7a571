//! The kernel for AVX-512.

use std::arch::x86_64::*;

use super::operands::{MicroPanel, Run, StridedRows, Strip};
use crate::engine::ops::gemm::blocking::{MR, PANEL, PANELS};
use crate::engine::ops::gemm::epilogue::Epilogue;
use crate::engine::ops::gemm::prefetch::Prefetch;

/// Steps of the depth that are unrolled. Sums of 1024 products run at 184 to 191 GFLOP/s on a core where they ran at
/// 155 to 165 without unrolling.
const UNROLLED: usize = 4;
/// Rows of the result that are prefetched together.
const PREFETCHED_ROWS: usize = 2;

/// The share of a [`Prefetch`] that one strip takes.
#[derive(Clone, Copy)]
struct Ahead {
    next: *const f32,
    stride: usize,
    rows: usize,
    /// Floats from the end of one sweep to the start of the next.
    turn: usize,
}

impl Ahead {
    #[inline(always)]
    fn of_strip(mut strip: usize, micro_panel: &MicroPanel<'_>, depth: usize) -> Option<Self> {
        for prefetch in micro_panel.next.iter().flatten() {
            let Prefetch { start, rows, stride, between, sweeps } = *prefetch;
            // How many sweeps one strip has time for. If it is none, the first strip takes what it can.
            let own = depth / rows;
            let strips = if own == 0 { 1 } else { sweeps.div_ceil(own) };
            if strip < strips {
                let next = start.wrapping_add(strip * own * between);
                return Some(Self {
                    next,
                    stride,
                    rows,
                    turn: between.wrapping_sub(rows * stride),
                });
            }
            strip -= strips;
        }
        None
    }
}

/// Calls the loops that are compiled for a number of panels and for the layout of both factors.
macro_rules! for_layout {
    ($micro_panel:ident, $transposed:expr, $call:ident($($argument:expr),*)) => {
        match ($micro_panel.panels, $transposed, $micro_panel.row_stride == PANEL) {
            (1, false, true) => $call::<1, false, false>($($argument),*),
            (1, false, false) => $call::<1, false, true>($($argument),*),
            (1, true, true) => $call::<1, true, false>($($argument),*),
            (1, true, false) => $call::<1, true, true>($($argument),*),
            (2, false, true) => $call::<2, false, false>($($argument),*),
            (2, false, false) => $call::<2, false, true>($($argument),*),
            (2, true, true) => $call::<2, true, false>($($argument),*),
            (2, true, false) => $call::<2, true, true>($($argument),*),
            (_, false, true) => $call::<PANELS, false, false>($($argument),*),
            (_, false, false) => $call::<PANELS, false, true>($($argument),*),
            (_, true, true) => $call::<PANELS, true, false>($($argument),*),
            (_, true, false) => $call::<PANELS, true, true>($($argument),*),
        }
    };
}

/// # Safety
/// The CPU must have AVX-512F. The rest is as for [`super::Kernel::run_strided`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run_strided(
    a: StridedRows,
    micro_panel: &MicroPanel<'_>,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller upholds the contract, which is the same.
    unsafe {
        for_layout!(
            micro_panel,
            a.depth_stride != 1,
            strided(a, micro_panel, epilogue, out, stride)
        )
    }
}

/// # Safety
/// As for [`run_strided`].
#[target_feature(enable = "avx512f")]
unsafe fn strided<const P: usize, const TRANSPOSED: bool, const ROW_MAJOR: bool>(
    a: StridedRows,
    micro_panel: &MicroPanel<'_>,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    for row in (0..a.rows).step_by(MR) {
        let rows = MR.min(a.rows - row);
        let strip = Strip { rows, runs: &a.run(row), depth_stride: a.depth_stride };
        let epilogue = epilogue.starting_at(row);
        let ahead = Ahead::of_strip(row / MR, micro_panel, a.depth);
        let out = out.wrapping_add(row * stride);
        // SAFETY: the caller upholds the contract for these rows.
        unsafe {
            any_strip::<P, TRANSPOSED, ROW_MAJOR>(strip, micro_panel, ahead, epilogue, out, stride)
        };
    }
}

/// # Safety
/// The CPU must have AVX-512F. The rest is as for [`super::Kernel::run`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn run(
    strip: Strip<'_>,
    micro_panel: &MicroPanel<'_>,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    let transposed = strip.depth_stride != 1;
    // SAFETY: the caller upholds the contract, which is the same.
    unsafe {
        for_layout!(
            micro_panel,
            transposed,
            any_strip(strip, micro_panel, None, epilogue, out, stride)
        )
    }
}

/// Calls the loops that are compiled for a number of rows. Most strips have [`MR`] rows and prefetch nothing.
///
/// # Safety
/// As for [`run`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn any_strip<const P: usize, const TRANSPOSED: bool, const ROW_MAJOR: bool>(
    strip: Strip<'_>,
    micro_panel: &MicroPanel<'_>,
    ahead: Option<Ahead>,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    let nothing = Ahead { next: out, stride: 0, rows: usize::MAX, turn: 0 };
    macro_rules! strip_of {
        ($rows:expr, $prefetches:expr) => {
            strip_of::<$rows, P, TRANSPOSED, ROW_MAJOR, $prefetches>(
                strip,
                micro_panel,
                ahead.unwrap_or(nothing),
                epilogue,
                out,
                stride,
            )
        };
    }
    // SAFETY: the caller upholds the contract, which is the same.
    unsafe {
        match (strip.rows, ahead) {
            (MR, None) => strip_of!(MR, false),
            (MR, Some(_)) => strip_of!(MR, true),
            (7, _) => strip_of!(7, true),
            (6, _) => strip_of!(6, true),
            (5, _) => strip_of!(5, true),
            (4, _) => strip_of!(4, true),
            (3, _) => strip_of!(3, true),
            (2, _) => strip_of!(2, true),
            _ => strip_of!(1, true),
        }
    }
}

/// Computes `R` rows by `P` panels.
///
/// - `TRANSPOSED`: the rows of the left factor are adjacent, and its depth has a stride.
/// - `ROW_MAJOR`: the panels of the right factor are adjacent, and their rows have a stride.
/// - `PREFETCHES`: whether `ahead` prefetches anything.
///
/// # Safety
/// As for [`run`].
#[target_feature(enable = "avx512f")]
unsafe fn strip_of<
    const R: usize,
    const P: usize,
    const TRANSPOSED: bool,
    const ROW_MAJOR: bool,
    const PREFETCHES: bool,
>(
    strip: Strip<'_>,
    micro_panel: &MicroPanel<'_>,
    ahead: Ahead,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    let depth_stride = if TRANSPOSED { strip.depth_stride } else { 1 };
    let (panel_stride, row_stride) =
        if ROW_MAJOR { (PANEL, micro_panel.row_stride) } else { (micro_panel.stride, PANEL) };
    let Ahead { mut next, rows: mut until_turn, .. } = ahead;
    let (mut prefetched, mut row) = (0, out); // rows of `out`
    let mut sums = [[_mm512_setzero_ps(); P]; R];
    let mut b = micro_panel.data.as_ptr();
    for Run { starts, length } in strip.runs {
        let Some(starts) = starts else {
            b = b.wrapping_add(length * row_stride);
            continue;
        };
        let rows: [*const f32; R] = std::array::from_fn(|r| match TRANSPOSED {
            true => starts[0].wrapping_add(r),
            false => starts[r],
        });
        let mut at = 0;
        macro_rules! step {
            () => {
                if PREFETCHES {
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                    _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(PANEL).cast());
                    next = next.wrapping_add(ahead.stride);
                }
                // SAFETY: the runs are readable for their lengths, and the panels hold all of them.
                unsafe {
                    let mut columns = [_mm512_setzero_ps(); P];
                    for (p, column) in columns.iter_mut().enumerate() {
                        *column = _mm512_loadu_ps(b.add(p * panel_stride));
                    }
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let factor = _mm512_set1_ps(*row.add(at));
                        for (sum, column) in sums.iter_mut().zip(&columns) {
                            *sum = _mm512_fmadd_ps(factor, *column, *sum);
                        }
                    }
                }
                at += depth_stride;
                b = b.wrapping_add(row_stride);
            };
        }
        // The rows of the result are prefetched during the sums, since a store that misses costs as much as a short
        // sum. They are spread over the depth: prefetches that are issued all at once wait for each other.
        let part = (length * PREFETCHED_ROWS / R).next_multiple_of(UNROLLED).max(4 * UNROLLED);
        let mut left = *length;
        while left > 0 {
            if prefetched < R {
                for r in 0..PREFETCHED_ROWS {
                    for p in 0..P {
                        let place = row.wrapping_add(r * stride + p * PANEL);
                        _mm_prefetch::<_MM_HINT_ET0>(place.cast());
                    }
                }
                prefetched += PREFETCHED_ROWS;
                row = row.wrapping_add(PREFETCHED_ROWS * stride);
            }
            let mut steps = left.min(part);
            if PREFETCHES {
                steps = steps.min(until_turn);
                until_turn -= steps;
            }
            left -= steps;
            for _ in 0..steps / UNROLLED {
                for _ in 0..UNROLLED {
                    step!();
                }
            }
            for _ in 0..steps % UNROLLED {
                step!();
            }
            if PREFETCHES && until_turn == 0 {
                next = next.wrapping_add(ahead.turn);
                until_turn = ahead.rows;
            }
        }
    }
    let partial: __mmask16 =
        if micro_panel.last == PANEL { !0 } else { (1 << micro_panel.last) - 1 };
    for (r, sums) in sums.iter_mut().enumerate() {
        for (p, sum) in sums.iter_mut().enumerate() {
            let mask = if p + 1 == P { partial } else { !0 };
            // SAFETY: the caller vouches that `out` and the epilogue hold these rows and the columns under the mask.
            unsafe {
                let place = out.add(r * stride + p * PANEL);
                if epilogue.accumulate {
                    *sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, place), *sum);
                }
                if let Some(values) = epilogue.bias {
                    let values = values.as_ptr().wrapping_add(p * PANEL);
                    *sum = _mm512_add_ps(*sum, _mm512_maskz_loadu_ps(mask, values));
                }
                if let Some((values, stride)) = epilogue.addend {
                    let values = values.as_ptr().wrapping_add(r * stride + p * PANEL);
                    *sum = _mm512_add_ps(*sum, _mm512_maskz_loadu_ps(mask, values));
                }
                _mm512_mask_storeu_ps(place, mask, *sum);
            }
        }
    }
}
