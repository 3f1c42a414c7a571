//! The innermost loops of the product, once for each instruction set.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::{PANEL, PANELS, ROWS, TILE};

/// Which instructions the CPU has.
#[derive(Clone, Copy)]
pub(super) enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// Up to [`ROWS`] rows of the left factor, part after part of the depth.
#[derive(Clone, Copy)]
pub(super) struct Strip<'a> {
    pub(super) rows: usize,
    pub(super) runs: &'a [Run],
    pub(super) depth_stride: usize,
}

/// A part of the depth of a strip.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// Where each row begins; `None` if all of them are zeros.
    pub(super) starts: Option<[*const f32; ROWS]>,
    pub(super) length: usize,
}

/// Any number of rows of the left factor that lie evenly.
#[derive(Clone, Copy)]
pub(super) struct Even {
    pub(super) start: *const f32,
    pub(super) rows: usize,
    pub(super) row_stride: usize,
    pub(super) depth: usize,
    pub(super) depth_stride: usize,
}

impl Even {
    /// The strip that begins with `row`.
    #[inline(always)]
    fn run(self, row: usize) -> [Run; 1] {
        let last = (self.rows - row).min(ROWS) - 1;
        let start = |r: usize| self.start.wrapping_add((row + r.min(last)) * self.row_stride);
        [Run { starts: Some(std::array::from_fn(start)), length: self.depth }]
    }
}

/// Panels of the right factor.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a> {
    /// Panels that begin `stride` apart, with rows that begin `row_stride` apart.
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
    pub(super) row_stride: usize,
    pub(super) panels: usize,
    /// Columns of the last panel.
    pub(super) last: usize,
    /// What comes after this tile, of the right factor and of the left.
    pub(super) next: [Option<Fetch>; 2],
}

/// Numbers that a product has brought into the second-level cache on its way, for whoever comes next: the first strips
/// of a tile would wait for it as long as they multiply.
///
/// Each step of the depth asks for [`Self::WIDTH`] numbers of one row. A sweep goes over all rows, and the next one over
/// the numbers beside those of the last.
#[derive(Clone, Copy)]
pub(in crate::engine::ops) struct Fetch {
    start: *const f32,
    rows: usize,
    stride: usize,
    /// Numbers from the start of one sweep to that of the next.
    between: usize,
    sweeps: usize,
}

impl Fetch {
    const WIDTH: usize = 2 * PANEL;

    /// So many numbers of each of some rows, `stride` apart.
    pub(in crate::engine::ops) fn rows(
        start: *const f32,
        stride: usize,
        rows: usize,
        numbers: usize,
    ) -> Self {
        let sweeps = numbers.div_ceil(Self::WIDTH);
        Self { start, rows: rows.max(1), stride, between: Self::WIDTH, sweeps }
    }

    /// Numbers one after the other, by a product of this depth.
    pub(super) fn stream(start: *const f32, numbers: usize, depth: usize) -> Self {
        let rows = depth.max(1);
        let between = rows * Self::WIDTH;
        Self { start, rows, stride: Self::WIDTH, between, sweeps: numbers.div_ceil(between) }
    }
}

/// What is added to a tile before it is stored.
#[derive(Clone, Copy)]
pub(super) struct Finish<'a> {
    pub(super) per_column: Option<&'a [f32]>,
    pub(super) matrix: Option<(&'a [f32], usize)>,
    pub(super) present: bool,
}

impl Finish<'_> {
    /// For rows from `row` on.
    #[inline(always)]
    pub(super) fn from(self, row: usize) -> Self {
        let matrix = self.matrix.map(|(values, stride)| (&values[row * stride..], stride));
        Self { matrix, ..self }
    }
}

impl Kernel {
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma")
            {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Computes the rows of `a`, however many.
    ///
    /// # Safety
    /// As for [`Self::run`], for each row. One of the strides of `a` is 1.
    pub(super) unsafe fn run_even(
        self,
        a: Even,
        tile: &Tile<'_>,
        finish: Finish<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if matches!(self, Self::Avx512) {
            // SAFETY: the feature was detected; the rest is the caller's.
            return unsafe { x86::run_even_avx512(a, tile, finish, out, stride) };
        }
        for row in (0..a.rows).step_by(ROWS) {
            let strip = Strip {
                rows: ROWS.min(a.rows - row),
                runs: &a.run(row),
                depth_stride: a.depth_stride,
            };
            // SAFETY: the caller's, for these rows.
            unsafe { self.run(strip, tile, finish.from(row), out.add(row * stride), stride) };
        }
    }

    /// Computes the rows of a strip.
    ///
    /// # Safety
    /// Every run must be readable for its length, with rows side by side unless the stride of the depth is 1; the tile
    /// must hold its panels, side by side unless their rows are dense; `finish` and `out` must hold the rows and columns,
    /// those of `out` `stride` apart.
    pub(super) unsafe fn run(
        self,
        strip: Strip<'_>,
        tile: &Tile<'_>,
        finish: Finish<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if matches!(self, Self::Avx512) {
            // SAFETY: the feature was detected; the rest is the caller's.
            return unsafe { x86::run_avx512(strip, tile, finish, out, stride) };
        }
        let mut sums = [0.0f32; ROWS * TILE];
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the feature was detected; there is room for all rows and panels.
            Self::Avx2 => unsafe { x86::run_avx2(strip, tile, &mut sums) },
            // SAFETY: likewise.
            _ => unsafe { portable(strip, tile, &mut sums) },
        }
        let columns = (tile.panels - 1) * PANEL + tile.last;
        for row in 0..strip.rows {
            // SAFETY: the caller's room for rows and columns.
            let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * stride), columns) };
            for (column, (out, &product)) in out.iter_mut().zip(&sums[row * TILE..]).enumerate() {
                let mut sum = if finish.present { *out + product } else { product };
                if let Some(values) = finish.per_column {
                    sum += values[column];
                }
                if let Some((values, stride)) = finish.matrix {
                    sum += values[row * stride + column];
                }
                *out = sum;
            }
        }
    }
}

/// # Safety
/// As for [`Kernel::run`].
unsafe fn portable(strip: Strip<'_>, tile: &Tile<'_>, out: &mut [f32; ROWS * TILE]) {
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

/// Column `i` of up to [`PANEL`] `rows` of `from`, `stride` apart, becomes row `i` of `to`, which has at most as many.
///
/// Columns of `to` beyond the rows become zeros.
#[inline]
pub(in crate::engine::ops) fn transpose(
    from: &[f32],
    stride: usize,
    rows: usize,
    to: &mut [[f32; PANEL]],
) {
    assert!(rows <= PANEL && to.len() <= PANEL, "a square of {PANEL} holds no more");
    assert!(rows == 0 || from.len() >= (rows - 1) * stride + to.len(), "the rows are too short");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature was detected; the rows have as many numbers as `to` has rows.
        return unsafe { x86::transpose_avx512(from.as_ptr(), stride, rows, to) };
    }
    for (i, to) in to.iter_mut().enumerate() {
        for (row, to) in to[..rows].iter_mut().enumerate() {
            *to = from[row * stride + i];
        }
        to[rows..].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that this CPU can run, not only the one that it does.
    fn kernels() -> Vec<Kernel> {
        let mut kernels = vec![Kernel::Portable];
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            kernels.push(Kernel::Avx2);
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f") {
            kernels.push(Kernel::Avx512);
        }
        kernels
    }

    /// Small integers, so that every order of sums gives the same number.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn squares_and_parts_of_squares_are_turned() {
        const STRIDE: usize = 21;
        let from = numbers(PANEL * STRIDE, 5);
        for (rows, columns) in [(16, 16), (16, 9), (5, 16), (7, 3), (0, 4), (16, 0)] {
            // No more than has to be there.
            let from = &from[..(rows.max(1) - 1) * STRIDE + columns];
            let mut to = vec![[f32::NAN; PANEL]; columns];
            transpose(from, STRIDE, rows, &mut to);
            for (column, to) in to.iter().enumerate() {
                let element = |row: usize| match row < rows {
                    true => from[row * STRIDE + column],
                    false => 0.0,
                };
                let expected: [f32; PANEL] = std::array::from_fn(element);
                let what = format!("column {column} of {columns}, {rows} rows");
                assert_eq!(to.map(f32::to_bits), expected.map(f32::to_bits), "{what}");
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_definitions_product() {
        for kernel in kernels() {
            // Of panels one after the other, and of rows that hold all of them.
            for (rows, panels, last, in_rows) in [
                (1, 1, 16, false),
                (8, 3, 16, false),
                (7, 2, 5, false),
                (19, 3, 1, false),
                (9, 3, 16, true),
                (7, 2, 5, true),
                (8, 1, 3, true),
            ] {
                for (turned, fetches) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    Case { rows, panels, last, in_rows, turned, fetches }.check(kernel);
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
        in_rows: bool,
        /// Whether the left factor is a transpose.
        turned: bool,
        fetches: bool,
    }

    impl Case {
        fn check(self, kernel: Kernel) {
            let Self { rows, panels, last, in_rows, turned, fetches } = self;
            let a = numbers(rows * DEPTH, 1);
            let (row_stride_a, depth_stride) = if turned { (1, rows) } else { (DEPTH, 1) };
            let (stride, row_stride) =
                if in_rows { (PANEL, panels * PANEL) } else { (DEPTH * PANEL, PANEL) };
            let columns = (panels - 1) * PANEL + last;
            let b = numbers(panels * DEPTH * PANEL, 2);
            let (bias, matrix) = (numbers(columns, 3), numbers(rows * columns, 4));
            let next = match fetches {
                true => [
                    Some(Fetch::rows(b.as_ptr(), PANEL, 3, 40)),
                    Some(Fetch::stream(a.as_ptr(), a.len(), DEPTH)),
                ],
                false => [None; 2],
            };
            let tile = Tile { data: &b, stride, row_stride, panels, last, next };
            let finish =
                Finish { per_column: Some(&bias), matrix: Some((&matrix, columns)), present: true };
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
            let even = Even {
                start: a.as_ptr(),
                rows,
                row_stride: row_stride_a,
                depth: DEPTH,
                depth_stride,
            };
            let mut out = vec![0.5; rows * columns];
            // SAFETY: the factors, what is added and `out` have the sizes that are said.
            unsafe { kernel.run_even(even, &tile, finish, out.as_mut_ptr(), columns) };
            assert_eq!(out, definition(|_| true), "{self:?}");

            // A part of the depth that is zeros for all rows of a strip.
            let rows = rows.min(ROWS);
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
            unsafe { kernel.run(strip, &tile, finish, out.as_mut_ptr(), columns) };
            let expected = &definition(|k| !(2..6).contains(k))[..rows * columns];
            assert_eq!(out, expected, "a strip of {self:?}");
        }
    }
}
