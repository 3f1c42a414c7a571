//! The innermost loops, in the registers of any instruction set.

use super::operands::{Columns, Run, StridedRows};
use crate::engine::ops::gemm::blocking::PANEL;
use crate::engine::ops::gemm::epilogue::Epilogue;
use crate::engine::ops::gemm::prefetch::Prefetch;
use crate::engine::ops::vector::{Product, Vector};

/// Steps of the depth that are unrolled. Sums of 1024 products run at 184 to 191 GFLOP/s on a core where they ran at
/// 155 to 165 without unrolling.
const UNROLLED: usize = 4;
/// Rows of the result that are prefetched together.
const PREFETCHED_ROWS: usize = 2;

/// Tiles of a product below one another: strips of as many rows as the loops take, by some columns.
#[derive(Clone, Copy)]
pub(super) struct Tiles<'a> {
    /// The rows of all strips.
    pub(super) a: StridedRows,
    pub(super) columns: Columns,
    /// What each strip prefetches.
    pub(super) ahead: Ahead,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) out: *mut f32,
    pub(super) stride: usize,
}

/// Tiles of a product whose operands lie in the caches: strips of as many rows as the loops take, by any number of columns.
#[derive(Clone, Copy)]
pub(super) struct TilesInCache {
    pub(super) a: StridedRows,
    pub(super) columns: Columns,
    /// Whether the products are added to what `out` holds.
    pub(super) accumulate: bool,
    pub(super) out: *mut f32,
    pub(super) stride: usize,
}

/// One tile of a product: a strip of gathered rows by some columns of packed panels.
#[derive(Clone, Copy)]
pub(super) struct GatheredTile<'a> {
    pub(super) runs: &'a [Run],
    pub(super) columns: Columns,
    pub(super) epilogue: Epilogue<'a>,
    pub(super) out: *mut f32,
    pub(super) stride: usize,
}

/// How often a tile prefetches.
pub(super) mod pace {
    /// Never.
    pub(crate) const NONE: usize = 0;
    /// Once in several steps, as memory delivers it.
    pub(crate) const STEADY: usize = super::UNROLLED;
    /// In each step, which makes the tile slower.
    pub(crate) const HASTY: usize = 1;
}

/// The share of a [`Prefetch`] that one tile takes.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    next: *const f32,
    stride: usize,
    /// Rows of a sweep, and those that are left of the present one.
    rows: usize,
    until_turn: usize,
    /// Floats from the end of one sweep to the start of the next.
    turn: usize,
}

impl Ahead {
    pub(super) const NOTHING: Self = Self {
        next: std::ptr::null(),
        stride: 0,
        rows: usize::MAX,
        until_turn: usize::MAX,
        turn: 0,
    };
}

/// What the last tiles of one call prefetch, one after the other.
///
/// Were it the first, rows of the left factor that pass by later could push it out of the cache again.
pub(super) struct Prefetches {
    prefetches: [Option<Prefetch>; 2],
    /// One of [`pace`].
    pub(super) pace: usize,
    /// Prefetches of one tile.
    share: usize,
    /// The first tile that prefetches.
    pub(super) start: usize,
}

impl Prefetches {
    /// Cut into shares for so many tiles of this depth.
    pub(super) fn of(prefetches: [Option<Prefetch>; 2], depth: usize, tiles: usize) -> Self {
        let shares = |pace: usize| -> usize {
            let share = (depth / pace).max(1);
            prefetches.iter().flatten().map(|all| all.count().div_ceil(share)).sum()
        };
        let pace = if shares(pace::STEADY) <= tiles { pace::STEADY } else { pace::HASTY };
        let start = tiles.saturating_sub(shares(pace));
        Self { prefetches, pace, share: (depth / pace).max(1), start }
    }

    /// The share of tile number `tile`, if there is one.
    #[inline(always)]
    pub(super) fn of_tile(&self, tile: usize) -> Option<Ahead> {
        let mut first = tile.checked_sub(self.start)? * self.share;
        for prefetch in self.prefetches.iter().flatten() {
            if first < prefetch.count() {
                let Prefetch { start, rows, stride, between, .. } = *prefetch;
                let (sweep, row) = (first / rows, first % rows);
                return Some(Ahead {
                    next: start.wrapping_add(sweep * between + row * stride),
                    stride,
                    rows,
                    until_turn: rows - row,
                    turn: between.wrapping_sub(rows * stride),
                });
            }
            first -= prefetch.count().next_multiple_of(self.share);
        }
        None
    }
}

/// Computes tiles of `R` rows by `N` registers.
///
/// - `P`: what the floats of the factors stand for
/// - `TRANSPOSED`: the rows of the left factor are adjacent, and its depth has a stride.
/// - `ROW_MAJOR`: the panels of the right factor are adjacent, and their rows have a stride.
/// - `PACE`: how often `ahead` is prefetched, one of [`pace`].
///
/// # Safety
/// As for [`super::Kernel::run_strided`], for a multiple of `R` rows and at most `N` registers of columns.
#[inline(always)]
pub(super) unsafe fn compute<
    V: Vector,
    P: Product<V>,
    const R: usize,
    const N: usize,
    const TRANSPOSED: bool,
    const ROW_MAJOR: bool,
    const PACE: usize,
>(
    &Tiles { a, columns, ahead, epilogue, out, stride }: &Tiles<'_>,
) {
    for row in (0..a.rows).step_by(R) {
        let out = out.wrapping_add(row * stride);
        let first = a.start.wrapping_add(row * if TRANSPOSED { 1 } else { a.row_stride });
        let rows = std::array::from_fn(|r| {
            first.wrapping_add(if TRANSPOSED { r } else { r * a.row_stride })
        });
        let depth_stride = if TRANSPOSED { a.depth_stride } else { 1 };
        let mut sums = [[V::ZERO; N]; R];
        let mut result = ToWrite { row: out, stride, left: R };
        // SAFETY: the caller vouches for the rows, the columns, `out` and the epilogue.
        unsafe {
            add_products::<V, P, R, N, ROW_MAJOR, PACE>(
                &mut sums,
                (rows, depth_stride),
                (columns.start, columns),
                a.depth,
                ahead,
                &mut result,
            );
            finish(sums, columns.count, epilogue.starting_at(row, 0), out, stride);
        }
    }
}

/// Computes tiles of `R` rows by `N` registers whose operands lie in the caches.
///
/// Depths are short: those of attention's logits have as many steps as a head has channels. So there is hardly anything
/// around a tile's sums.
///
/// # Safety
/// As for [`super::Kernel::run_in_cache`], for a multiple of `R` rows.
#[inline(always)]
pub(super) unsafe fn compute_in_cache<
    V: Vector,
    P: Product<V>,
    const R: usize,
    const N: usize,
    const TRANSPOSED: bool,
    const ROW_MAJOR: bool,
>(
    &TilesInCache { a, columns, accumulate, out, stride }: &TilesInCache,
) {
    let (panel_stride, b_stride) =
        if ROW_MAJOR { (PANEL, columns.row_stride) } else { (columns.stride, PANEL) };
    let (row_stride, depth_stride) =
        if TRANSPOSED { (1, a.depth_stride) } else { (a.row_stride, 1) };
    // The columns of a tile stay in the first-level cache while the rows pass by.
    for column in (0..columns.count).step_by(N * V::LANES) {
        let columns = columns.some(column, N * V::LANES);
        for row in (0..a.rows).step_by(R) {
            let first = a.start.wrapping_add(row * row_stride);
            let rows = std::array::from_fn(|r| first.wrapping_add(r * row_stride));
            let out = out.wrapping_add(row * stride + column);
            let mut sums = [[V::ZERO; N]; R];
            let mut b = columns.start;
            let mut at = 0;
            for _ in 0..a.depth {
                // SAFETY: the caller vouches for the rows and the columns.
                unsafe { add_step::<V, P, R, N>(&mut sums, (&rows, at), (b, panel_stride)) };
                at += depth_stride;
                b = b.wrapping_add(b_stride);
            }
            let epilogue = Epilogue { accumulate, ..Epilogue::default() };
            // SAFETY: the caller vouches for `out`.
            unsafe { finish(sums, columns.count, epilogue, out, stride) };
        }
    }
}

/// Computes a tile of `R` gathered rows by `N` registers.
///
/// # Safety
/// As for [`super::Kernel::run`], for `R` rows and at most `N` registers of columns.
#[inline(always)]
pub(super) unsafe fn compute_gathered<V: Vector, P: Product<V>, const R: usize, const N: usize>(
    &GatheredTile { runs, columns, epilogue, out, stride }: &GatheredTile<'_>,
) {
    let mut sums = [[V::ZERO; N]; R];
    let mut result = ToWrite { row: out, stride, left: R };
    let mut b = columns.start;
    for Run { starts, length } in runs {
        if let Some(starts) = starts {
            let rows = std::array::from_fn(|r| starts[r]);
            // SAFETY: the caller vouches for the runs and the columns.
            unsafe {
                add_products::<V, P, R, N, false, { pace::NONE }>(
                    &mut sums,
                    (rows, 1),
                    (b, columns),
                    *length,
                    Ahead::NOTHING,
                    &mut result,
                );
            }
        }
        b = b.wrapping_add(length * PANEL);
    }
    // SAFETY: the caller vouches for `out` and the epilogue.
    unsafe { finish(sums, columns.count, epilogue, out, stride) };
}

/// Rows of the result that are still to be prefetched.
struct ToWrite {
    row: *mut f32,
    stride: usize,
    left: usize,
}

/// Adds the products of one step of the depth.
///
/// - `rows`: where each row begins, and the place of the step in it
/// - `b`: where the columns begin, and the floats between panels
///
/// # Safety
/// The step must be readable.
#[inline(always)]
unsafe fn add_step<V: Vector, P: Product<V>, const R: usize, const N: usize>(
    sums: &mut [[V; N]; R],
    (rows, at): (&[*const f32; R], usize),
    (b, panel_stride): (*const f32, usize),
) {
    let mut factors = [V::ZERO; N];
    for (n, factor) in factors.iter_mut().enumerate() {
        let column = n * V::LANES;
        let place = b.wrapping_add(column / PANEL * panel_stride + column % PANEL);
        // SAFETY: the caller vouches for the step.
        *factor = unsafe { V::load(place) };
    }
    for (sums, row) in sums.iter_mut().zip(rows) {
        // SAFETY: likewise.
        let factor = V::splat(unsafe { *row.wrapping_add(at) });
        for (sum, column) in sums.iter_mut().zip(&factors) {
            *sum = P::add(factor, *column, *sum);
        }
    }
}

/// Adds the products of some steps of the depth.
///
/// - `rows`: where each row begins, and the stride of the depth
/// - `b`: where the columns begin, and what follows each
///
/// # Safety
/// The rows and columns must be readable for `length` steps.
#[inline(always)]
unsafe fn add_products<
    V: Vector,
    P: Product<V>,
    const R: usize,
    const N: usize,
    const ROW_MAJOR: bool,
    const PACE: usize,
>(
    sums: &mut [[V; N]; R],
    (rows, depth_stride): ([*const f32; R], usize),
    (mut b, columns): (*const f32, Columns),
    length: usize,
    ahead: Ahead,
    result: &mut ToWrite,
) {
    let (panel_stride, row_stride) =
        if ROW_MAJOR { (PANEL, columns.row_stride) } else { (columns.stride, PANEL) };
    let Ahead { mut next, mut until_turn, .. } = ahead;
    let mut at = 0;
    macro_rules! prefetch {
        () => {
            V::prefetch(next);
            V::prefetch(next.wrapping_add(PANEL));
            next = next.wrapping_add(ahead.stride);
        };
    }
    macro_rules! step {
        () => {
            if PACE == pace::HASTY {
                prefetch!();
            }
            // SAFETY: the caller vouches for the rows and columns.
            unsafe { add_step::<V, P, R, N>(sums, (&rows, at), (b, panel_stride)) };
            at += depth_stride;
            b = b.wrapping_add(row_stride);
        };
    }
    // The rows of the result are prefetched during the sums, since a store that misses costs as much as a short sum. They
    // are spread over the depth: prefetches that are issued all at once wait for each other.
    let part = (length * PREFETCHED_ROWS / R).next_multiple_of(UNROLLED).max(4 * UNROLLED);
    let mut left = length;
    while left > 0 {
        if result.left > 0 {
            for r in 0..PREFETCHED_ROWS {
                for panel in 0..(N * V::LANES).div_ceil(PANEL) {
                    let place = r * result.stride + panel * PANEL;
                    V::prefetch_to_write(result.row.wrapping_add(place));
                }
            }
            result.left = result.left.saturating_sub(PREFETCHED_ROWS);
            result.row = result.row.wrapping_add(PREFETCHED_ROWS * result.stride);
        }
        let mut steps = left.min(part);
        if PACE != pace::NONE {
            steps = steps.min(until_turn.saturating_mul(PACE));
            until_turn -= steps / PACE;
        }
        left -= steps;
        let unrolled = at + steps / UNROLLED * UNROLLED * depth_stride;
        let end = unrolled + steps % UNROLLED * depth_stride;
        while at < unrolled {
            if PACE == pace::STEADY {
                prefetch!();
            }
            for _ in 0..UNROLLED {
                step!();
            }
        }
        while at < end {
            step!();
        }
        if PACE != pace::NONE && until_turn == 0 {
            next = next.wrapping_add(ahead.turn);
            until_turn = ahead.rows;
        }
    }
}

/// Adds the epilogue to the sums and stores them.
///
/// # Safety
/// `out` and the epilogue must hold `R` rows of `count` columns.
#[inline(always)]
unsafe fn finish<V: Vector, const R: usize, const N: usize>(
    sums: [[V; N]; R],
    count: usize,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller upholds the contract.
    unsafe {
        if count == N * V::LANES {
            finish_registers::<V, R, N, true>(sums, count, epilogue, out, stride);
        } else {
            finish_registers::<V, R, N, false>(sums, count, epilogue, out, stride);
        }
    }
}

/// [`finish`]. `WHOLE`: all registers are full of columns.
///
/// # Safety
/// As for [`finish`].
#[inline(always)]
unsafe fn finish_registers<V: Vector, const R: usize, const N: usize, const WHOLE: bool>(
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Starts of what is prefetched, in floats from the start of the memory.
    fn places(shares: &Prefetches, tiles: usize, steps: usize) -> Vec<usize> {
        let mut places = Vec::new();
        for ahead in (0..tiles).filter_map(|tile| shares.of_tile(tile)) {
            let Ahead { mut next, stride, rows, mut until_turn, turn } = ahead;
            for _ in 0..steps / shares.pace {
                places.push(next as usize / size_of::<f32>());
                next = next.wrapping_add(stride);
                until_turn -= 1;
                if until_turn == 0 {
                    next = next.wrapping_add(turn);
                    until_turn = rows;
                }
            }
        }
        places
    }

    #[test]
    fn the_last_tiles_prefetch_everything() {
        // Where the tiles have the time, once in several steps, otherwise in each.
        for (tiles, pace, first) in
            [(39, pace::STEADY, 34), (5, pace::STEADY, 0), (4, pace::HASTY, 2)]
        {
            let null = std::ptr::null();
            let both = [Prefetch::rows(null, 500, 12, 96), Prefetch::rows(null, 600, 5, 300)];
            let shares = Prefetches::of(both.map(Some), 96, tiles);
            assert_eq!(shares.pace, pace);
            assert!(first == 0 || shares.of_tile(first - 1).is_none(), "{tiles} tiles");
            let places = places(&shares, tiles, 96);
            for (stride, rows, floats) in [(500, 12, 96), (600, 5, 300)] {
                for (row, column) in
                    (0..rows).flat_map(|row| (0..floats).step_by(32).map(move |c| (row, c)))
                {
                    assert!(
                        places.contains(&(row * stride + column)),
                        "{tiles} tiles, row {row}, {column}"
                    );
                }
            }
        }
    }
}
