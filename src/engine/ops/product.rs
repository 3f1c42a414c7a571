//! The matrix product under convolution, linear layers and attention on the CPU.
//!
//! `C (+)= A B` with `B` packed in panels of [`PANEL`] columns, so that the innermost loop reads it in one stream.
//! The depth is cut in blocks of fixed length and each element of `C` is summed in one order, whatever the number of
//! rows, columns or threads: a row computed alone has the same bits as among others.

use super::cpu::filled;

/// Columns of a panel.
pub(super) const PANEL: usize = 16;
/// Depth of a block: three panels of it fit the first-level cache.
const DEPTH_BLOCK: usize = 256;
/// Rows and panels that the kernel computes at once.
const ROWS: usize = 8;
const PANELS: usize = 3;
/// Columns of the kernel's tile.
const TILE: usize = PANELS * PANEL;

/// The right factor, `(depth, width)`, packed.
pub(super) struct Panels {
    data: Vec<f32>,
    depth: usize,
    width: usize,
}

impl Panels {
    /// Panels that `fill` writes, each `(depth, PANEL)`; columns beyond the width may hold anything finite.
    pub(super) fn filled(
        depth: usize,
        width: usize,
        mut fill: impl FnMut(usize, &mut [f32]),
    ) -> Self {
        let data = filled(width.div_ceil(PANEL) * depth * PANEL, |data| {
            data.chunks_exact_mut((depth * PANEL).max(1))
                .enumerate()
                .for_each(|(index, panel)| fill(index, panel));
        });
        Self { data, depth, width }
    }

    /// From row-major `(depth, width)` rows that lie `stride` apart.
    pub(super) fn from_rows(source: &[f32], stride: usize, depth: usize, width: usize) -> Self {
        Self::filled(depth, width, |index, panel| {
            let start = index * PANEL;
            let columns = PANEL.min(width - start);
            for (k, to) in panel.chunks_exact_mut(PANEL).enumerate() {
                let from = &source[k * stride + start..k * stride + start + columns];
                if columns == PANEL {
                    to.copy_from_slice(&from[..PANEL]);
                } else {
                    to[..columns].copy_from_slice(from);
                    to[columns..].fill(0.0);
                }
            }
        })
    }

    /// From the transpose: row-major `(width, depth)` rows that lie `stride` apart.
    pub(super) fn from_columns(source: &[f32], stride: usize, depth: usize, width: usize) -> Self {
        Self::filled(depth, width, |index, panel| {
            let start = index * PANEL;
            let columns = PANEL.min(width - start);
            for column in 0..PANEL {
                if column >= columns {
                    panel.iter_mut().skip(column).step_by(PANEL).for_each(|value| *value = 0.0);
                    continue;
                }
                let from = &source[(start + column) * stride..(start + column) * stride + depth];
                for (to, &value) in panel.iter_mut().skip(column).step_by(PANEL).zip(from) {
                    *to = value;
                }
            }
        })
    }
}

/// The left factor, `(rows, depth)`, read where it lies.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) row_stride: usize,
    pub(super) depth_stride: usize,
}

/// What is added to the product.
#[derive(Clone, Copy)]
pub(super) enum Add<'a> {
    Nothing,
    /// One number per row.
    PerRow(&'a [f32]),
    /// One number per column.
    PerColumn(&'a [f32]),
    /// What `C` holds already.
    Present,
}

/// `C = A B + add`; `C` is row-major with rows `stride` apart.
pub(super) fn multiply(a: Left<'_>, b: &Panels, add: Add<'_>, c: &mut [f32], stride: usize) {
    assert!(a.rows == 0 || c.len() >= (a.rows - 1) * stride + b.width, "the product does not fit");
    assert!(
        a.rows == 0
            || b.depth == 0
            || a.data.len() > (a.rows - 1) * a.row_stride + (b.depth - 1) * a.depth_stride,
        "the left factor is too short"
    );
    // SAFETY: the first assertion bounds every write; `c` is exclusive.
    unsafe { multiply_into(a, b, add, c.as_mut_ptr(), stride) }
}

/// [`multiply`] for callers whose threads write to columns of the same rows.
///
/// # Safety
/// `c` must be valid for `rows` rows of `b`'s width, `stride` apart, and nothing else may touch those columns;
/// `a.data` must hold all rows and the whole depth.
pub(super) unsafe fn multiply_into(
    a: Left<'_>,
    b: &Panels,
    add: Add<'_>,
    c: *mut f32,
    stride: usize,
) {
    let mut tile = [0.0f32; ROWS * TILE];
    let kernel = Kernel::detect();
    let mut start = 0;
    loop {
        let depth = DEPTH_BLOCK.min(b.depth - start);
        let add = if start == 0 { add } else { Add::Present };
        for column in (0..b.width).step_by(TILE) {
            let panels = (b.width - column).div_ceil(PANEL).min(PANELS);
            let columns = TILE.min(b.width - column);
            let first_panel = &b.data[(column / PANEL) * b.depth * PANEL + start * PANEL..];
            for row in (0..a.rows).step_by(ROWS) {
                let rows = ROWS.min(a.rows - row);
                let left = Block {
                    a: &a.data[(row * a.row_stride + start * a.depth_stride).min(a.data.len())..],
                    row_stride: a.row_stride,
                    depth_stride: a.depth_stride,
                    b: first_panel,
                    panel_stride: b.depth * PANEL,
                    depth,
                };
                // SAFETY: `row` and `column` lie within what the caller vouched for.
                let place = unsafe { c.add(row * stride + column) };
                if matches!(add, Add::Nothing) && columns == panels * PANEL {
                    // SAFETY: the caller vouches for `a` and for these rows and columns of `c`; `b` holds `panels`
                    // panels of the whole depth from here on.
                    unsafe { kernel.run(&left, rows, panels, place, stride) };
                    continue;
                }
                // SAFETY: as above; the tile has room for all rows and panels.
                unsafe { kernel.run(&left, rows, panels, tile.as_mut_ptr(), TILE) };
                for r in 0..rows {
                    let tile = &tile[r * TILE..r * TILE + columns];
                    // SAFETY: row and columns lie within what the caller vouched for.
                    let out =
                        unsafe { std::slice::from_raw_parts_mut(place.add(r * stride), columns) };
                    match add {
                        Add::Nothing => out.copy_from_slice(tile),
                        Add::PerRow(bias) => {
                            out.iter_mut().zip(tile).for_each(|(out, x)| *out = x + bias[row + r]);
                        }
                        Add::PerColumn(bias) => {
                            let bias = &bias[column..column + columns];
                            out.iter_mut()
                                .zip(tile)
                                .zip(bias)
                                .for_each(|((out, x), b)| *out = x + b);
                        }
                        Add::Present => out.iter_mut().zip(tile).for_each(|(out, x)| *out += x),
                    }
                }
            }
        }
        start += depth;
        if start >= b.depth {
            return;
        }
    }
}

/// Both factors from one row, column and depth on.
struct Block<'a> {
    a: &'a [f32],
    row_stride: usize,
    depth_stride: usize,
    b: &'a [f32],
    panel_stride: usize,
    depth: usize,
}

/// Which instructions the CPU has.
#[derive(Clone, Copy)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Kernel {
    fn detect() -> Self {
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

    /// Computes `rows` of `panels` panels' columns.
    ///
    /// # Safety
    /// The block must hold that many rows and panels over its depth, and `out` have room for them, rows `stride` apart.
    unsafe fn run(
        self,
        block: &Block<'_>,
        rows: usize,
        panels: usize,
        out: *mut f32,
        stride: usize,
    ) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the feature was detected; the caller vouches for the block.
            Self::Avx512 => unsafe { x86::run_avx512(block, rows, panels, out, stride) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 => unsafe { x86::run_avx2(block, rows, panels, out, stride) },
            // SAFETY: as above.
            Self::Portable => unsafe { portable(block, rows, panels, out, stride) },
        }
    }
}

/// # Safety
/// As for [`Kernel::run`].
unsafe fn portable(block: &Block<'_>, rows: usize, panels: usize, out: *mut f32, stride: usize) {
    for row in 0..rows {
        for panel in 0..panels {
            let mut sums = [0.0f32; PANEL];
            for k in 0..block.depth {
                let a = block.a[row * block.row_stride + k * block.depth_stride];
                let b = &block.b[panel * block.panel_stride + k * PANEL..][..PANEL];
                sums.iter_mut().zip(b).for_each(|(sum, b)| *sum = a.mul_add(*b, *sum));
            }
            // SAFETY: the caller's.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    sums.as_ptr(),
                    out.add(row * stride + panel * PANEL),
                    PANEL,
                )
            };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Block, PANEL};

    /// # Safety
    /// AVX-512F, and as for [`super::Kernel::run`].
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn run_avx512(
        block: &Block<'_>,
        rows: usize,
        panels: usize,
        out: *mut f32,
        stride: usize,
    ) {
        macro_rules! dispatch {
            ($($rows:literal)*) => {
                // SAFETY: the caller's.
                unsafe {
                    match (rows, panels) {
                        $(
                            ($rows, 1) => avx512::<$rows, 1>(block, out, stride),
                            ($rows, 2) => avx512::<$rows, 2>(block, out, stride),
                            ($rows, _) => avx512::<$rows, 3>(block, out, stride),
                        )*
                        _ => {}
                    }
                }
            };
        }
        dispatch!(1 2 3 4 5 6 7 8)
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn avx512<const R: usize, const P: usize>(
        block: &Block<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        let mut sums = [[_mm512_setzero_ps(); P]; R];
        let (mut a, mut b) = (block.a.as_ptr(), block.b.as_ptr());
        for _ in 0..block.depth {
            // SAFETY: the block holds R rows and P panels over its depth, so every address read is inside it.
            unsafe {
                let mut columns = [_mm512_setzero_ps(); P];
                for (p, column) in columns.iter_mut().enumerate() {
                    *column = _mm512_loadu_ps(b.add(p * block.panel_stride));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm512_set1_ps(*a.add(r * block.row_stride));
                    for (sum, column) in sums.iter_mut().zip(&columns) {
                        *sum = _mm512_fmadd_ps(factor, *column, *sum);
                    }
                }
                a = a.wrapping_add(block.depth_stride);
                b = b.wrapping_add(PANEL);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (p, sum) in sums.iter().enumerate() {
                // SAFETY: the caller's room for R rows and P panels.
                unsafe { _mm512_storeu_ps(out.add(r * stride + p * PANEL), *sum) };
            }
        }
    }

    /// # Safety
    /// AVX2 and FMA, and as for [`super::Kernel::run`].
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn run_avx2(
        block: &Block<'_>,
        rows: usize,
        panels: usize,
        out: *mut f32,
        stride: usize,
    ) {
        for panel in 0..panels {
            let mut row = 0;
            while row < rows {
                // SAFETY: the caller's; both parts stay inside the block and the tile.
                unsafe {
                    if rows - row >= 4 {
                        avx2::<4>(block, row, panel, out, stride);
                        row += 4;
                    } else {
                        avx2::<1>(block, row, panel, out, stride);
                        row += 1;
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2<const R: usize>(
        block: &Block<'_>,
        row: usize,
        panel: usize,
        out: *mut f32,
        stride: usize,
    ) {
        let mut sums = [[_mm256_setzero_ps(); 2]; R];
        let mut a = block.a.as_ptr().wrapping_add(row * block.row_stride);
        let mut b = block.b.as_ptr().wrapping_add(panel * block.panel_stride);
        for _ in 0..block.depth {
            // SAFETY: the block holds the rows and the panel over its depth.
            unsafe {
                let columns = [_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8))];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm256_set1_ps(*a.add(r * block.row_stride));
                    sums[0] = _mm256_fmadd_ps(factor, columns[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(factor, columns[1], sums[1]);
                }
                a = a.wrapping_add(block.depth_stride);
                b = b.wrapping_add(PANEL);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            // SAFETY: the caller's room for the rows and the panel.
            unsafe {
                let to = out.add((row + r) * stride + panel * PANEL);
                _mm256_storeu_ps(to, sums[0]);
                _mm256_storeu_ps(to.add(8), sums[1]);
            }
        }
    }
}
