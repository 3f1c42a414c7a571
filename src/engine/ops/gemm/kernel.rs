//! The micro-kernel: the innermost loops of a product, one version for each instruction set.
//!
//! It does multiply-adds and hardly anything else (ADR 0020). There is one set of loops, `tile`, which `sets` compiles for
//! each instruction set with tiles of the size that its registers hold.

mod operands;
mod sets;
mod tile;

use self::operands::Columns;
pub(super) use self::operands::{MicroPanel, Run, StridedRows, Strip};
use self::sets::Set;
use self::tile::{Ahead, Tile};
use super::blocking::PANEL;
use super::epilogue::Epilogue;
use crate::engine::ops::instructions::InstructionSet;

/// The kernel of an instruction set that this CPU has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel(InstructionSet);

/// Calls a function that is generic over [`Set`].
macro_rules! for_set {
    ($kernel:ident, $call:ident($($argument:expr),* $(,)?)) => {
        match $kernel.0 {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => $call::<sets::Avx512>($($argument),*),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => $call::<sets::Avx2>($($argument),*),
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => $call::<sets::Neon>($($argument),*),
            _ => $call::<sets::Portable>($($argument),*),
        }
    };
}

impl Kernel {
    /// That of the set in use.
    pub(super) fn used() -> Self {
        Self(InstructionSet::used())
    }

    /// Into how many strips the kernel cuts so many rows, which differ by at most one row.
    pub(super) fn strips(self, rows: usize) -> usize {
        let most = match self.0 {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => sets::Avx512::ROWS,
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => sets::Avx2::ROWS,
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => sets::Neon::ROWS,
            _ => sets::Portable::ROWS,
        };
        rows.div_ceil(most)
    }

    /// Multiplies any number of strided rows by a micro-panel.
    ///
    /// # Safety
    /// The rows of `a` must be readable, and one of its strides must be 1. The rest is as for [`Self::run`].
    pub(super) unsafe fn run_strided(
        self,
        a: StridedRows,
        micro_panel: &MicroPanel<'_>,
        epilogue: Epilogue<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        let strips = self.strips(a.rows);
        // SAFETY: the CPU has the set, and the caller upholds the contract.
        unsafe { for_set!(self, run_strided(a, strips, micro_panel, epilogue, out, stride)) }
    }

    /// Multiplies the rows of one strip by a micro-panel.
    ///
    /// # Safety
    /// - The strip must have no more rows than one of [`Self::strips`].
    /// - Every run must be readable for its length. Where the stride of its depth is not 1, its rows are adjacent.
    /// - The micro-panel must hold its panels over all runs. Where their row stride is not [`PANEL`], its panels are
    ///   adjacent.
    /// - `epilogue` and `out` must hold all rows and columns, those of `out` `stride` apart.
    pub(super) unsafe fn run(
        self,
        strip: Strip<'_>,
        micro_panel: &MicroPanel<'_>,
        epilogue: Epilogue<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        // SAFETY: the CPU has the set, and the caller upholds the contract.
        unsafe { for_set!(self, run_strip(strip, micro_panel, epilogue, out, stride)) }
    }
}

/// # Safety
/// The CPU must have the set. The rest is as for [`Kernel::run_strided`].
unsafe fn run_strided<S: Set>(
    a: StridedRows,
    strips: usize,
    micro_panel: &MicroPanel<'_>,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    // The columns of a tile stay in the first-level cache while the rows pass by.
    let mut tile = 0;
    for first in (0..micro_panel.columns()).step_by(S::VECTORS * S::LANES) {
        let columns = micro_panel.some(first, S::VECTORS * S::LANES);
        let mut row = 0;
        for index in 1..=strips {
            let end = a.rows * index / strips;
            let runs = &a.run(row, end - row);
            let strip = Strip { rows: end - row, runs, depth_stride: a.depth_stride };
            let ahead = Ahead::of_tile(tile, &micro_panel.next, a.depth);
            let epilogue = epilogue.starting_at(row, first);
            let out = out.wrapping_add(row * stride + first);
            // SAFETY: the caller upholds the contract for these rows and columns.
            unsafe { for_layout::<S>(strip, columns, ahead, epilogue, out, stride) };
            row = end;
            tile += 1;
        }
    }
}

/// # Safety
/// The CPU must have the set. The rest is as for [`Kernel::run`].
unsafe fn run_strip<S: Set>(
    strip: Strip<'_>,
    micro_panel: &MicroPanel<'_>,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    for first in (0..micro_panel.columns()).step_by(S::VECTORS * S::LANES) {
        let columns = micro_panel.some(first, S::VECTORS * S::LANES);
        let epilogue = epilogue.starting_at(0, first);
        let out = out.wrapping_add(first);
        // SAFETY: the caller upholds the contract for these columns.
        unsafe { for_layout::<S>(strip, columns, None, epilogue, out, stride) };
    }
}

/// Calls the loops that are compiled for the layout of both factors and for a number of registers.
///
/// # Safety
/// As for [`run_strip`].
#[inline(always)]
unsafe fn for_layout<S: Set>(
    strip: Strip<'_>,
    columns: Columns,
    ahead: Option<Ahead>,
    epilogue: Epilogue<'_>,
    out: *mut f32,
    stride: usize,
) {
    let prefetches = ahead.is_some();
    let ahead = ahead.unwrap_or(Ahead::NOTHING);
    let tile = Tile { strip, columns, ahead, epilogue, out, stride };
    let is_row_major = columns.row_stride != PANEL;
    // SAFETY: the caller upholds the contract, which is the same.
    unsafe {
        match (strip.depth_stride != 1, is_row_major) {
            (false, false) => for_width::<S, false, false>(tile, prefetches),
            (false, true) => for_width::<S, false, true>(tile, prefetches),
            (true, false) => for_width::<S, true, false>(tile, prefetches),
            (true, true) => for_width::<S, true, true>(tile, prefetches),
        }
    }
}

/// # Safety
/// As for [`run_strip`].
#[inline(always)]
unsafe fn for_width<S: Set, const TRANSPOSED: bool, const ROW_MAJOR: bool>(
    tile: Tile<'_>,
    prefetches: bool,
) {
    // SAFETY: the caller upholds the contract, which is the same.
    unsafe {
        // Only registers of whole panels come in several numbers.
        if S::LANES == PANEL && tile.columns.count <= PANEL {
            for_rows::<S, 1, TRANSPOSED, ROW_MAJOR>(tile, prefetches)
        } else if S::VECTORS == 2 || S::LANES == PANEL && tile.columns.count <= 2 * PANEL {
            for_rows::<S, 2, TRANSPOSED, ROW_MAJOR>(tile, prefetches)
        } else if S::VECTORS == 3 {
            for_rows::<S, 3, TRANSPOSED, ROW_MAJOR>(tile, prefetches)
        } else {
            for_rows::<S, 4, TRANSPOSED, ROW_MAJOR>(tile, prefetches)
        }
    }
}

/// Calls the loops that are compiled for a number of rows. Most strips are as high as possible and prefetch nothing.
///
/// # Safety
/// As for [`run_strip`].
#[inline(always)]
unsafe fn for_rows<S: Set, const N: usize, const T: bool, const M: bool>(
    tile: Tile<'_>,
    prefetches: bool,
) {
    let rows = tile.strip.rows;
    // SAFETY: the caller upholds the contract, which is the same. What a set has no room for is not compiled.
    unsafe {
        if S::ROWS == 8 && rows == 8 {
            if prefetches {
                S::tile::<8, N, T, M, true>(tile)
            } else {
                S::tile::<8, N, T, M, false>(tile)
            }
        } else if S::ROWS == 8 && rows == 7 {
            S::tile::<7, N, T, M, true>(tile)
        } else if S::ROWS == 6 && rows == 6 {
            if prefetches {
                S::tile::<6, N, T, M, true>(tile)
            } else {
                S::tile::<6, N, T, M, false>(tile)
            }
        } else if S::ROWS == 8 && rows == 6 {
            S::tile::<6, N, T, M, true>(tile)
        } else if S::ROWS >= 5 && rows == 5 {
            S::tile::<5, N, T, M, true>(tile)
        } else if rows == 4 {
            if prefetches {
                S::tile::<4, N, T, M, true>(tile)
            } else {
                S::tile::<4, N, T, M, false>(tile)
            }
        } else {
            match rows {
                3 => S::tile::<3, N, T, M, true>(tile),
                2 => S::tile::<2, N, T, M, true>(tile),
                _ => S::tile::<1, N, T, M, true>(tile),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::gemm::prefetch::Prefetch;

    /// Small integers: their sum is the same in every order.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_definitions_product() {
        for kernel in InstructionSet::available().map(Kernel) {
            // Of panels one after the other, and of rows that hold all of them.
            for (rows, panels, last, row_major) in [
                (1, 1, 16, false),
                (8, 3, 16, false),
                (7, 2, 5, false),
                (19, 3, 1, false),
                (9, 3, 16, true),
                (7, 2, 5, true),
                (8, 1, 3, true),
            ] {
                for (transposed, prefetches) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    Case { rows, panels, last, row_major, transposed, prefetches }.check(kernel);
                }
            }
        }
    }

    /// Long enough for several of the loops' rounds, and a rest.
    const DEPTH: usize = 37;

    #[derive(Clone, Copy, Debug)]
    struct Case {
        rows: usize,
        panels: usize,
        last: usize,
        row_major: bool,
        /// Whether the left factor is a transpose.
        transposed: bool,
        prefetches: bool,
    }

    impl Case {
        fn check(self, kernel: Kernel) {
            let Self { rows, panels, last, row_major, transposed, prefetches } = self;
            let a = numbers(rows * DEPTH, 1);
            let (row_stride_a, depth_stride) = if transposed { (1, rows) } else { (DEPTH, 1) };
            let (stride, row_stride) =
                if row_major { (PANEL, panels * PANEL) } else { (DEPTH * PANEL, PANEL) };
            let columns = (panels - 1) * PANEL + last;
            let b = numbers(panels * DEPTH * PANEL, 2);
            let (bias, matrix) = (numbers(columns, 3), numbers(rows * columns, 4));
            let next = match prefetches {
                true => [
                    Some(Prefetch::rows(b.as_ptr(), PANEL, 3, 40)),
                    Some(Prefetch::stream(a.as_ptr(), a.len(), DEPTH)),
                ],
                false => [None; 2],
            };
            let micro_panel = MicroPanel { data: &b, stride, row_stride, panels, last, next };
            let epilogue =
                Epilogue { bias: Some(&bias), addend: Some((&matrix, columns)), accumulate: true };
            let definition = |takes_part: fn(&usize) -> bool| -> Vec<f32> {
                let element = |i: usize| {
                    let (row, column) = (i / columns, i % columns);
                    let first = column / PANEL * stride + column % PANEL;
                    let a = |k: usize| a[row * row_stride_a + k * depth_stride];
                    let b = |k: usize| b[first + k * row_stride];
                    let product: f32 = (0..DEPTH).filter(takes_part).map(|k| a(k) * b(k)).sum();
                    0.5 + product + bias[column] + matrix[i]
                };
                (0..rows * columns).map(element).collect()
            };
            let strided = StridedRows {
                start: a.as_ptr(),
                rows,
                row_stride: row_stride_a,
                depth: DEPTH,
                depth_stride,
            };
            let mut out = vec![0.5; rows * columns];
            // SAFETY: the factors, what is added and `out` have the sizes that are said.
            unsafe {
                kernel.run_strided(strided, &micro_panel, epilogue, out.as_mut_ptr(), columns)
            };
            assert_eq!(out, definition(|_| true), "{kernel:?}, {self:?}");

            // A part of the depth that is zeros for all rows of a strip.
            let rows = rows.min(4);
            let run = |part: std::ops::Range<usize>| Run {
                starts: Some(std::array::from_fn(|r| {
                    let start = r.min(rows - 1) * row_stride_a + part.start * depth_stride;
                    a.as_ptr().wrapping_add(start)
                })),
                length: part.len(),
            };
            let runs = [run(0..2), Run { starts: None, length: 4 }, run(6..DEPTH)];
            let strip = Strip { rows, runs: &runs, depth_stride };
            let mut out = vec![0.5; rows * columns];
            // SAFETY: likewise.
            unsafe { kernel.run(strip, &micro_panel, epilogue, out.as_mut_ptr(), columns) };
            let expected = &definition(|k| !(2..6).contains(k))[..rows * columns];
            assert_eq!(out, expected, "{kernel:?}, a strip of {self:?}");
        }
    }
}
