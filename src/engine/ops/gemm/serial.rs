//! Products on one thread.

use std::ops::Range;

use super::blocking::{L2_FLOATS, MR, NR, PANEL, PANELS};
use super::epilogue::Epilogue;
use super::factor::{Left, Right, Start, blocks, check};
use super::kernel::{Kernel, MicroPanel, Run, StridedRows, Strip};
use super::panels::{PanelsView, pack_columns};
use super::prefetch::Prefetch;

/// `C = A B + epilogue`; `C` is row-major with rows `stride` apart.
pub(crate) fn gemm(
    a: Left<'_>,
    b: Right<'_>,
    epilogue: Epilogue<'_>,
    c: &mut [f32],
    stride: usize,
) {
    let (rows, width) = (a.count(), b.width());
    assert!(rows == 0 || c.len() >= (rows - 1) * stride + width, "the product does not fit");
    // SAFETY: the assertion bounds every write; `c` is exclusive.
    unsafe { gemm_columns(a, b, epilogue, 0..width, c.as_mut_ptr(), stride) }
}

/// [`gemm`], of some columns, for callers whose threads write to columns of the same rows.
///
/// # Safety
/// `c` must be valid for as many rows as `a` has, `stride` apart, each of `b`'s width, and nothing else may touch
/// those columns. Columns begin at a multiple of [`NR`].
pub(crate) unsafe fn gemm_columns(
    a: Left<'_>,
    b: Right<'_>,
    epilogue: Epilogue<'_>,
    columns: Range<usize>,
    c: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's.
    unsafe { gemm_columns_prefetching(a, b, epilogue, columns, c, stride, None) }
}

/// [`gemm_columns`], while numbers that its caller will read are brought into the second-level cache.
///
/// # Safety
/// As for [`gemm_columns`].
pub(crate) unsafe fn gemm_columns_prefetching(
    a: Left<'_>,
    b: Right<'_>,
    epilogue: Epilogue<'_>,
    columns: Range<usize>,
    c: *mut f32,
    stride: usize,
    prefetch: Option<Prefetch>,
) {
    let (rows, depth) = (a.count(), b.depth());
    check(a, depth);
    if let Right::Rows { stride, width, .. } = b {
        assert!(
            stride.is_multiple_of(PANEL) && width <= stride,
            "the right factor's rows do not hold whole panels"
        );
    }
    if rows == 0 {
        return;
    }
    let mut transposed = Vec::new();
    let mut strips = Strips::new(a);
    for first in columns.clone().step_by(columns_held(rows)) {
        let group = first..columns.end.min(first + columns_held(rows));
        for (index, block) in blocks(a, depth).enumerate() {
            for column in group.clone().step_by(NR) {
                let tile = tile(b, block.clone(), column..group.end, &mut transposed);
                let next = match b {
                    // Many rows do not wait for a tile.
                    Right::Packed(_) if rows >= depth || tile.panels < PANELS => None,
                    _ if column + NR < group.end => {
                        Some(b.prefetch(block.start, column + NR, block.len()))
                    }
                    _ if block.end < depth => Some(b.prefetch(block.end, group.start, block.len())),
                    // What follows in memory, be it of the next columns or of the next place of a convolution.
                    _ => Some(b.prefetch(0, group.end, block.len())),
                };
                let of_left =
                    strips.prefetch(block.end..depth.min(block.end + block.len()), || {
                        let tiles = group.len().div_ceil(NR);
                        let part = |at: usize| rows * at / tiles;
                        let at = (column - group.start) / NR;
                        part(at)..part(at + 1)
                    });
                let tile = MicroPanel { next: [prefetch.or(next), of_left], ..tile };
                let epilogue = match index {
                    0 => Epilogue {
                        bias: epilogue.bias.map(|values| &values[column..]),
                        addend: epilogue.addend.map(|(values, stride)| (&values[column..], stride)),
                        accumulate: epilogue.accumulate,
                    },
                    _ => Epilogue { accumulate: true, ..Epilogue::default() },
                };
                let place = c.wrapping_add(column);
                // SAFETY: the caller vouches for these rows and columns of `c`; `check` has seen that every part of the
                // left factor lies inside it, and the tile holds its panels of this block.
                unsafe { strips.gemm(block.clone(), &tile, epilogue, place, stride) };
            }
        }
    }
}

/// The left factor's rows for the kernel.
struct Strips<'a> {
    kernel: Kernel,
    rows: Left<'a>,
    /// In place of parts that are not there.
    zeros: Vec<f32>,
    runs: Vec<Run>,
}

impl<'a> Strips<'a> {
    fn new(rows: Left<'a>) -> Self {
        let zeros = match rows {
            Left::Gathered { length, .. } => vec![0.0; length],
            Left::Strided { .. } => Vec::new(),
        };
        Self { kernel: Kernel::detect(), rows, zeros, runs: Vec::new() }
    }

    /// Some rows, over a part of the depth, unless the cache still has them.
    fn prefetch(&self, depth: Range<usize>, some: impl Fn() -> Range<usize>) -> Option<Prefetch> {
        match self.rows {
            Left::Strided { data, rows, row_stride, depth_stride: 1 }
                if !depth.is_empty() && rows * row_stride > 2 * L2_FLOATS =>
            {
                let rows = some();
                let start = data.as_ptr().wrapping_add(rows.start * row_stride + depth.start);
                Some(Prefetch::rows(start, row_stride, rows.len(), depth.len()))
            }
            Left::Strided { .. } | Left::Gathered { .. } => None,
        }
    }

    /// All rows, over a block of the depth, times a tile.
    ///
    /// # Safety
    /// The left factor must reach so far, the tile must hold its panels of this block, and `epilogue` and `out` the rows
    /// and columns.
    unsafe fn gemm(
        &mut self,
        block: Range<usize>,
        tile: &MicroPanel<'_>,
        epilogue: Epilogue<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        match self.rows {
            Left::Strided { data, rows, row_stride, depth_stride } => {
                let start = data.as_ptr().wrapping_add(block.start * depth_stride);
                let a = StridedRows { start, rows, row_stride, depth: block.len(), depth_stride };
                // SAFETY: the caller's.
                unsafe { self.kernel.run_strided(a, tile, epilogue, out, stride) };
            }
            Left::Gathered { data, starts, rows, length } => {
                for row in (0..rows).step_by(MR) {
                    let count = MR.min(rows - row);
                    let starts = |part: usize| &starts[part * rows + row..][..count];
                    runs_of_parts(data, &self.zeros, starts, length, block.clone(), &mut self.runs);
                    let strip = Strip { rows: count, runs: &self.runs, depth_stride: 1 };
                    let (epilogue, out) = (epilogue.from(row), out.wrapping_add(row * stride));
                    // SAFETY: the caller's.
                    unsafe { self.kernel.run(strip, tile, epilogue, out, stride) };
                }
            }
        }
    }
}

/// Columns of so many rows of a product that the second-level cache holds beside what is read, until the last block of
/// the depth has been added to them.
fn columns_held(rows: usize) -> usize {
    (L2_FLOATS / (rows.max(1) * NR)).max(1) * NR
}

/// The first panels of `columns`, over a block of the depth; `transposed` has room for what lies otherwise.
fn tile<'a>(
    b: Right<'a>,
    block: Range<usize>,
    columns: Range<usize>,
    transposed: &'a mut Vec<f32>,
) -> MicroPanel<'a> {
    let column = columns.start;
    let panels = columns.len().div_ceil(PANEL).min(PANELS);
    let last = columns.len().min(NR) - (panels - 1) * PANEL;
    let (data, stride, row_stride) = match b {
        Right::Packed(PanelsView { data, depth, .. }) => {
            (&data[column * depth + block.start * PANEL..], depth * PANEL, PANEL)
        }
        Right::Rows { data, stride, .. } => (&data[block.start * stride + column..], PANEL, stride),
        Right::Transposed { data, depth, width } => {
            let length = block.len();
            transposed.resize(PANELS * length * PANEL, 0.0);
            let data = &data[column * depth + block.start..];
            let to = transposed.chunks_exact_mut(length * PANEL).take(panels);
            to.enumerate().for_each(|(index, panel)| {
                pack_columns(data, depth, length, width - column, index, panel);
            });
            (&**transposed, length * PANEL, PANEL)
        }
    };
    MicroPanel { data, stride, row_stride, panels, last, next: [None; 2] }
}

/// Where the rows of a strip begin in each part of a block, and the length of the parts there.
fn runs_of_parts<'a>(
    data: &[f32],
    zeros: &[f32],
    starts: impl Fn(usize) -> &'a [Start],
    length: usize,
    block: Range<usize>,
    runs: &mut Vec<Run>,
) {
    runs.clear();
    let mut at = block.start;
    while at < block.end {
        let (part, offset) = (at / length, at % length);
        let starts = starts(part);
        let start = |r: usize| match starts[r.min(starts.len() - 1)] {
            Start::At(start) => data.as_ptr().wrapping_add(start + offset),
            Start::Zeros => zeros.as_ptr().wrapping_add(offset),
        };
        let zeros = starts.iter().all(|start| *start == Start::Zeros);
        let until = block.end.min((part + 1) * length);
        let starts = (!zeros).then(|| std::array::from_fn(start));
        runs.push(Run { starts, length: until - at });
        at = until;
    }
}
