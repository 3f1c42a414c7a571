//! The micro-kernel: the innermost loops of a product, one version for each instruction set.
//!
//! It does multiply-adds and hardly anything else (ADR 0020). There is one set of loops, `tile`, which `sets` compiles for
//! each instruction set with tiles of the size that its registers hold.

mod operands;
mod sets;
mod tile;

pub(super) use self::operands::{MicroPanel, Repeats, Run, StridedRows, Strip};
use self::sets::{Layout, Set};
use self::tile::{Ahead, GatheredTile, Prefetches, Tiles, TilesInCache, pace};
use super::blocking::{Blocks, PANEL};
use super::epilogue::Epilogue;
use super::numbers::Numbers;
use crate::engine::ops::instructions::InstructionSet;

/// The kernel of an instruction set that this CPU has, for factors of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel(InstructionSet, Numbers);

/// Calls a function that is generic over [`Set`].
macro_rules! for_set {
    ($kernel:ident, $call:ident($($argument:expr),* $(,)?)) => {
        match ($kernel.0, $kernel.1) {
            #[cfg(target_arch = "x86_64")]
            (_, Numbers::Bf16Pairs) => $call::<sets::Avx512Bf16>($($argument),*),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx512, _) => $call::<sets::Avx512>($($argument),*),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx2, _) => $call::<sets::Avx2>($($argument),*),
            #[cfg(target_arch = "aarch64")]
            (InstructionSet::Neon, _) => $call::<sets::Neon>($($argument),*),
            _ => $call::<sets::Portable>($($argument),*),
        }
    };
}

impl Kernel {
    /// That of the set in use.
    ///
    /// # Panics
    /// If the factors are pairs of bf16 numbers, and the set does not multiply those.
    pub(super) fn used(numbers: Numbers) -> Self {
        let set = InstructionSet::used();
        assert!(numbers == Numbers::Floats || set.multiplies_bf16(), "no products of bf16 numbers");
        Self(set, numbers)
    }

    /// Into how many strips the kernel cuts so many rows, which differ by at most one row.
    pub(super) fn strips(self, rows: usize) -> usize {
        rows.div_ceil(for_set!(self, most_rows()))
    }

    /// Floats of a register.
    pub(super) fn lanes(self) -> usize {
        for_set!(self, lanes())
    }

    /// Most steps of the depth in one block.
    pub(super) fn depth(self, blocks: Blocks) -> usize {
        for_set!(self, depth_of(blocks))
    }

    /// Multiplies any number of strided rows by a micro-panel.
    ///
    /// # Safety
    /// - The rows of `a` must be readable, and one of its strides must be 1.
    /// - The micro-panel must hold its panels over the depth. Where their row stride is not [`PANEL`], its panels are
    ///   adjacent.
    /// - `epilogue` and `out` must hold all rows and columns, those of `out` `stride` apart.
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

    /// [`Self::run_strided`] for operands that lie in the caches, by any number of panels. Nothing is prefetched.
    ///
    /// # Safety
    /// As for [`Self::run_strided`].
    pub(super) unsafe fn run_in_cache(
        self,
        a: StridedRows,
        micro_panel: &MicroPanel<'_>,
        accumulate: bool,
        out: *mut f32,
        stride: usize,
    ) {
        let once = Repeats { count: 1, of_a: 0, of_panels: 0, of_out: 0 };
        // SAFETY: the caller upholds the contract.
        unsafe { self.run_repeated(a, micro_panel, accumulate, (out, stride), once, || {}) }
    }

    /// [`Self::run_in_cache`] for several products of one size.
    ///
    /// # Safety
    /// As for [`Self::run_strided`], for each of them.
    pub(super) unsafe fn run_repeated(
        self,
        a: StridedRows,
        micro_panel: &MicroPanel<'_>,
        accumulate: bool,
        out: (*mut f32, usize),
        repeats: Repeats,
        before_each: impl FnMut(),
    ) {
        // SAFETY: the CPU has the set, and the caller upholds the contract.
        unsafe {
            for_set!(self, run_repeated(a, micro_panel, accumulate, out, repeats, before_each))
        }
    }

    /// Multiplies the gathered rows of one strip by a packed micro-panel.
    ///
    /// # Safety
    /// - The strip must have no more rows than one of [`Self::strips`].
    /// - Every run must be readable for its length.
    /// - The micro-panel must hold its panels over all runs, one after the other.
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

fn most_rows<S: Set>() -> usize {
    S::ROWS
}

fn lanes<S: Set>() -> usize {
    S::LANES
}

fn depth_of<S: Set>(blocks: Blocks) -> usize {
    S::depth(blocks)
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
    let width = S::VECTORS * S::LANES;
    let tiles = strips * micro_panel.columns().div_ceil(width);
    let prefetches = Prefetches::of(micro_panel.next, a.depth, tiles);
    let layout = Layout::of(a, micro_panel);
    // The first strips have a row more than the others.
    let (rows_of_strip, with_one_more) = (a.rows / strips, a.rows % strips);
    // The columns of a tile stay in the first-level cache while the rows pass by.
    let mut tile = 0;
    for first in (0..micro_panel.columns()).step_by(width) {
        let columns = micro_panel.some(first, width);
        let loops = S::loops(layout, columns.count);
        let mut row = 0;
        for (rows, mut strips) in
            [(rows_of_strip + 1, with_one_more), (rows_of_strip, strips - with_one_more)]
        {
            while strips > 0 {
                let ahead = prefetches.of_tile(tile);
                // Tiles that prefetch nothing are computed in one call.
                let together = prefetches.start.saturating_sub(tile).clamp(1, strips);
                let compute = loops[rows - 1].at(ahead.map_or(pace::NONE, |_| prefetches.pace));
                let tiles = Tiles {
                    a: a.part(row, together * rows),
                    columns,
                    ahead: ahead.unwrap_or(Ahead::NOTHING),
                    epilogue: epilogue.starting_at(row, first),
                    out: out.wrapping_add(row * stride + first),
                    stride,
                };
                // SAFETY: the caller upholds the contract for these rows and columns.
                unsafe { compute(&tiles) };
                row += together * rows;
                tile += together;
                strips -= together;
            }
        }
    }
}

/// # Safety
/// The CPU must have the set. The rest is as for [`Kernel::run_repeated`].
unsafe fn run_repeated<S: Set>(
    a: StridedRows,
    micro_panel: &MicroPanel<'_>,
    accumulate: bool,
    (out, stride): (*mut f32, usize),
    Repeats { count, of_a, of_panels, of_out }: Repeats,
    mut before_each: impl FnMut(),
) {
    let strips = a.rows.div_ceil(S::ROWS);
    let (rows, with_one_more) = (a.rows / strips, a.rows % strips);
    // Strips of one height, one below the other, are computed in one call.
    let heights = [(rows + 1, with_one_more), (rows, strips - with_one_more)];
    // Columns that fill tiles, and those of a narrower one.
    let columns = micro_panel.columns();
    let filling = columns - columns % (S::VECTORS * S::LANES);
    let layout = Layout::of(a, micro_panel);
    let widths = [(0, filling), (filling, columns - filling)]
        .map(|(first, count)| (first, count, S::loops_in_cache(layout, count)));
    for index in 0..count {
        before_each();
        for (first, count, loops) in widths {
            let mut row = 0;
            for (rows, strips) in heights {
                if count == 0 || strips == 0 {
                    continue;
                }
                let a = a.part(row, rows * strips);
                let tiles = TilesInCache {
                    a: StridedRows { start: a.start.wrapping_add(index * of_a), ..a },
                    columns: micro_panel.some(first, count).moved(index * of_panels),
                    accumulate,
                    out: out.wrapping_add(index * of_out + row * stride + first),
                    stride,
                };
                // SAFETY: the caller upholds the contract for these rows and columns.
                unsafe { loops[rows - 1](&tiles) };
                row += rows * strips;
            }
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
    assert_eq!(micro_panel.row_stride, PANEL, "gathered rows are multiplied by packed panels");
    for first in (0..micro_panel.columns()).step_by(S::VECTORS * S::LANES) {
        let columns = micro_panel.some(first, S::VECTORS * S::LANES);
        let compute = S::gathered_loops(columns.count)[strip.rows - 1];
        let epilogue = epilogue.starting_at(0, first);
        let out = out.wrapping_add(first);
        // SAFETY: the caller upholds the contract for these columns.
        unsafe { compute(&GatheredTile { runs: strip.runs, columns, epilogue, out, stride }) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::gemm::pairs::{halves, pair_of};
    use crate::engine::ops::gemm::prefetch::Prefetch;

    /// Small integers: their sum is the same in every order, and bf16 holds them.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    impl Kernel {
        /// Those of this CPU.
        fn available() -> impl Iterator<Item = Self> {
            let of_floats = InstructionSet::available().map(|set| Self(set, Numbers::Floats));
            let of_pairs = InstructionSet::available()
                .filter(|set| set.multiplies_bf16())
                .map(|set| Self(set, Numbers::Bf16Pairs));
            of_floats.chain(of_pairs)
        }

        /// Floats of a factor, or pairs of numbers in their place.
        fn factor(self, count: usize, seed: usize) -> Vec<f32> {
            match self.1 {
                Numbers::Floats => numbers(count, seed),
                Numbers::Bf16Pairs => {
                    let numbers = numbers(2 * count, seed);
                    numbers.as_chunks().0.iter().map(|[a, b]| pair_of(*a, *b)).collect()
                }
            }
        }

        /// What one float of each factor adds to a sum.
        fn product(self, a: f32, b: f32) -> f32 {
            match self.1 {
                Numbers::Floats => a * b,
                Numbers::Bf16Pairs => halves(a).iter().zip(halves(b)).map(|(a, b)| a * b).sum(),
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_definitions_product() {
        for kernel in Kernel::available() {
            // Of panels one after the other, and of rows that hold all of them.
            for (rows, panels, last, row_major) in [
                (1, 1, 16, false),
                (8, 3, 16, false),
                (7, 2, 5, false),
                (19, 3, 1, false),
                (9, 3, 16, true),
                (7, 2, 5, true),
                (8, 1, 3, true),
                (9, 7, 3, false),
                (13, 7, 16, true),
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
            let a = kernel.factor(rows * DEPTH, 1);
            let (row_stride_a, depth_stride) = if transposed { (1, rows) } else { (DEPTH, 1) };
            let (stride, row_stride) =
                if row_major { (PANEL, panels * PANEL) } else { (DEPTH * PANEL, PANEL) };
            let columns = (panels - 1) * PANEL + last;
            let b = kernel.factor(panels * DEPTH * PANEL, 2);
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
                    let step = |k| kernel.product(a(k), b(k));
                    let product: f32 = (0..DEPTH).filter(takes_part).map(step).sum();
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

            let mut in_cache = vec![0.5; rows * columns];
            let place = in_cache.as_mut_ptr();
            // SAFETY: likewise.
            unsafe { kernel.run_in_cache(strided, &micro_panel, true, place, columns) };
            for (i, element) in in_cache.iter_mut().enumerate() {
                *element += bias[i % columns] + matrix[i];
            }
            assert_eq!(in_cache, definition(|_| true), "{kernel:?}, {self:?}, in the cache");

            // Gathered rows, and a part of the depth that is zeros for all of them.
            if transposed || row_major {
                return;
            }
            let rows = rows.min(4);
            let run = |part: std::ops::Range<usize>| Run {
                starts: Some(std::array::from_fn(|r| {
                    let start = r.min(rows - 1) * DEPTH + part.start;
                    a.as_ptr().wrapping_add(start)
                })),
                length: part.len(),
            };
            let runs = [run(0..2), Run { starts: None, length: 4 }, run(6..DEPTH)];
            let strip = Strip { rows, runs: &runs };
            let mut out = vec![0.5; rows * columns];
            // SAFETY: likewise.
            unsafe { kernel.run(strip, &micro_panel, epilogue, out.as_mut_ptr(), columns) };
            let expected = &definition(|k| !(2..6).contains(k))[..rows * columns];
            assert_eq!(out, expected, "{kernel:?}, a strip of {self:?}");
        }
    }
}
