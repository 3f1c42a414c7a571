//! The innermost loops, in the registers of any instruction set.

use super::operands::{Columns, Run, Strip};
use crate::engine::ops::gemm::blocking::PANEL;
use crate::engine::ops::gemm::epilogue::Epilogue;
use crate::engine::ops::gemm::prefetch::Prefetch;
use crate::engine::ops::vector::{Product, Vector};

/// Steps of the depth that are unrolled. Sums of 1024 products run at 184 to 191 GFLOP/s on a core where they ran at
/// 155 to 165 without unrolling.
const UNROLLED: usize = 4;
/// Rows of the result that are prefetched together.
const PREFETCHED_ROWS: usize = 2;

/// One tile of a product: the rows of a strip by some columns.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    pub(super) strip: Strip<'a>,
    pub(super) columns: Columns,
    pub(super) ahead: Ahead,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) out: *mut f32,
    pub(super) stride: usize,
}

/// The share of a [`Prefetch`] that one tile takes.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    next: *const f32,
    stride: usize,
    rows: usize,
    /// Floats from the end of one sweep to the start of the next.
    turn: usize,
}

impl Ahead {
    pub(super) const NOTHING: Self =
        Self { next: std::ptr::null(), stride: 0, rows: usize::MAX, turn: 0 };
}

/// What the tiles of one call prefetch, one after the other.
pub(super) struct Prefetches([Option<Shares>; 2]);

/// A [`Prefetch`] that is cut into shares.
#[derive(Clone, Copy)]
struct Shares {
    first: Ahead,
    /// Floats from the start of one share to that of the next.
    between: usize,
    tiles: usize,
}

impl Prefetches {
    /// Cut into what a tile of this depth has time for.
    pub(super) fn of(prefetches: &[Option<Prefetch>; 2], depth: usize) -> Self {
        Self(prefetches.map(|prefetch| {
            let Prefetch { start, rows, stride, between, sweeps } = prefetch?;
            // How many sweeps one tile has time for. If it is none, the first tile takes what it can.
            let own = depth / rows;
            let tiles = if own == 0 { 1 } else { sweeps.div_ceil(own) };
            let turn = between.wrapping_sub(rows * stride);
            Some(Shares {
                first: Ahead { next: start, stride, rows, turn },
                between: own * between,
                tiles,
            })
        }))
    }

    /// The share of tile number `tile`, if there is one.
    #[inline(always)]
    pub(super) fn of_tile(&self, mut tile: usize) -> Option<Ahead> {
        for Shares { first, between, tiles } in self.0.iter().flatten() {
            if tile < *tiles {
                return Some(Ahead { next: first.next.wrapping_add(tile * between), ..*first });
            }
            tile -= tiles;
        }
        None
    }
}

/// Computes `R` rows by `N` registers.
///
/// - `P`: what the floats of the factors stand for
/// - `TRANSPOSED`: the rows of the left factor are adjacent, and its depth has a stride.
/// - `ROW_MAJOR`: the panels of the right factor are adjacent, and their rows have a stride.
/// - `PREFETCHES`: whether `ahead` prefetches anything.
///
/// # Safety
/// As for [`super::Kernel::run`], for `R` rows and at most `N` registers of columns.
#[inline(always)]
pub(super) unsafe fn compute<
    V: Vector,
    P: Product<V>,
    const R: usize,
    const N: usize,
    const TRANSPOSED: bool,
    const ROW_MAJOR: bool,
    const PREFETCHES: bool,
>(
    &Tile { strip, columns, ahead, epilogue, out, stride }: &Tile<'_>,
) {
    let depth_stride = if TRANSPOSED { strip.depth_stride } else { 1 };
    let (panel_stride, row_stride) =
        if ROW_MAJOR { (PANEL, columns.row_stride) } else { (columns.stride, PANEL) };
    let Ahead { mut next, rows: mut until_turn, .. } = ahead;
    let (mut prefetched, mut row) = (0, out); // rows of `out`
    let mut sums = [[V::ZERO; N]; R];
    let mut b = columns.start;
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
                    V::prefetch(next);
                    V::prefetch(next.wrapping_add(PANEL));
                    next = next.wrapping_add(ahead.stride);
                }
                // SAFETY: the runs are readable for their lengths, and the panels hold all of them.
                unsafe {
                    let mut factors = [V::ZERO; N];
                    for (n, factor) in factors.iter_mut().enumerate() {
                        let column = n * V::LANES;
                        *factor = V::load(b.add(column / PANEL * panel_stride + column % PANEL));
                    }
                    for (sums, row) in sums.iter_mut().zip(&rows) {
                        let factor = V::splat(*row.add(at));
                        for (sum, column) in sums.iter_mut().zip(&factors) {
                            *sum = P::add(factor, *column, *sum);
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
                    for panel in 0..(N * V::LANES).div_ceil(PANEL) {
                        V::prefetch_to_write(row.wrapping_add(r * stride + panel * PANEL));
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
    // SAFETY: the caller vouches that `out` and the epilogue hold these rows and columns.
    unsafe {
        if columns.count == N * V::LANES {
            finish::<V, R, N, true>(sums, columns.count, epilogue, out, stride);
        } else {
            finish::<V, R, N, false>(sums, columns.count, epilogue, out, stride);
        }
    }
}

/// Adds the epilogue to the sums and stores them. `WHOLE`: all registers are full of columns.
///
/// # Safety
/// `out` and the epilogue must hold `R` rows of `count` columns.
#[inline(always)]
unsafe fn finish<V: Vector, const R: usize, const N: usize, const WHOLE: bool>(
    mut sums: [[V; N]; R],
    count: usize,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    // Of register `n`.
    let lanes = |n: usize| count.saturating_sub(n * V::LANES).min(V::LANES);
    let load = |from: *const f32, n: usize| {
        let from = from.wrapping_add(n * V::LANES);
        // SAFETY: the caller vouches for so many floats.
        unsafe { if WHOLE { V::load(from) } else { V::load_first(from, lanes(n)) } }
    };
    // One question for all registers, not one for each.
    if epilogue.accumulate {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = load(out.wrapping_add(r * stride), n) + *sum;
            }
        }
    }
    if let Some(values) = epilogue.bias {
        for n in 0..N {
            let values = load(values.as_ptr(), n);
            sums.iter_mut().for_each(|sums| sums[n] = sums[n] + values);
        }
    }
    if let Some((values, stride)) = epilogue.addend {
        for (r, sums) in sums.iter_mut().enumerate() {
            for (n, sum) in sums.iter_mut().enumerate() {
                *sum = *sum + load(values.as_ptr().wrapping_add(r * stride), n);
            }
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (n, sum) in sums.into_iter().enumerate() {
            let place = out.wrapping_add(r * stride + n * V::LANES);
            // SAFETY: the caller vouches for these places.
            unsafe {
                if WHOLE {
                    sum.store(place);
                } else {
                    sum.store_first(place, lanes(n));
                }
            }
        }
    }
}
