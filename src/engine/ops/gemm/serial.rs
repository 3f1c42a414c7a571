//! The loops around the kernel, on one thread.

use std::ops::Range;

use super::blocking::{L2_FLOATS, NR, PANEL, PANELS};
use super::epilogue::Epilogue;
use super::factor::{Left, Right, Start, blocks, check, check_right};
use super::kernel::{Kernel, MicroPanel, Run, StridedRows, Strip};
use super::numbers::Numbers;
use super::panels::{PanelsView, pack_columns, pack_from_panels, pack_rows};
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

/// Rows for which a micro-panel is packed that is slow to read where it lies.
const PACKED_FOR: usize = 64;

/// [`gemm()`] of some columns, for callers whose threads write to different columns of the same rows.
///
/// # Safety
/// `c` must be valid for as many rows as `a` has, `stride` apart, in these columns, and nothing else may access them.
/// The first column is a multiple of [`NR`].
pub(crate) unsafe fn gemm_columns(
    a: Left<'_>,
    b: Right<'_>,
    epilogue: Epilogue<'_>,
    columns: Range<usize>,
    c: *mut f32,
    stride: usize,
) {
    let (rows, depth) = (a.count(), b.depth());
    check(a, depth);
    if rows == 0 || columns.is_empty() {
        return;
    }
    check_right(b, depth, columns.end);
    epilogue.check(rows, columns.end);
    let mut packed = Vec::new();
    let mut strips = Strips::new(a, b.numbers());
    for first in columns.clone().step_by(cached_columns(rows)) {
        let group = first..columns.end.min(first + cached_columns(rows));
        for (index, block) in blocks(a, depth, strips.kernel.depth(b.blocks())).enumerate() {
            for column in group.clone().step_by(NR) {
                let micro_panel =
                    micro_panel(b, rows, block.clone(), column..group.end, &mut packed);
                let next = match b {
                    // Many rows hide the time that a micro-panel takes to arrive.
                    Right::Packed(_) if rows >= depth || micro_panel.panels < PANELS => None,
                    _ if column + NR < group.end => {
                        Some(b.prefetch(block.start, column + NR, block.len()))
                    }
                    _ if block.end < depth => Some(b.prefetch(block.end, group.start, block.len())),
                    // What follows in memory: the next columns, or the matrix of the next product of a convolution.
                    _ => Some(b.prefetch(0, group.end, block.len())),
                };
                let next_of_a =
                    strips.prefetch(block.end..depth.min(block.end + block.len()), || {
                        let micro_panels = group.len().div_ceil(NR);
                        let part = |at: usize| rows * at / micro_panels;
                        let at = (column - group.start) / NR;
                        part(at)..part(at + 1)
                    });
                let micro_panel = MicroPanel { next: [next, next_of_a], ..micro_panel };
                let epilogue = match index {
                    0 => Epilogue {
                        bias: epilogue.bias.map(|values| &values[column..]),
                        addend: epilogue.addend.map(|(values, stride)| (&values[column..], stride)),
                        accumulate: epilogue.accumulate,
                    },
                    _ => Epilogue { accumulate: true, ..Epilogue::default() },
                };
                let place = c.wrapping_add(column);
                // SAFETY: the caller vouches for these rows and columns of `c`. `check` has verified that all of the
                // left factor is readable, and the micro-panel holds this block of the depth.
                unsafe { strips.gemm(block.clone(), &micro_panel, epilogue, place, stride) };
            }
        }
    }
}

/// The left factor, cut into strips for the kernel.
struct Strips<'a> {
    kernel: Kernel,
    rows: Left<'a>,
    /// What parts in the padding are read from.
    zeros: Vec<f32>,
    runs: Vec<Run>,
}

impl<'a> Strips<'a> {
    fn new(rows: Left<'a>, numbers: Numbers) -> Self {
        let zeros = match rows {
            Left::Gathered { length, .. } => vec![0.0; length],
            Left::Strided { .. } => Vec::new(),
        };
        Self { kernel: Kernel::used(numbers), rows, zeros, runs: Vec::new() }
    }

    /// The memory of some rows over a part of the depth, unless the cache still holds it or never will.
    fn prefetch(&self, depth: Range<usize>, some: impl Fn() -> Range<usize>) -> Option<Prefetch> {
        match self.rows {
            Left::Strided { data, rows, row_stride, depth_stride: 1 }
                if !depth.is_empty()
                    && rows * row_stride > 2 * L2_FLOATS
                    && rows * depth.len() <= 2 * L2_FLOATS =>
            {
                let rows = some();
                let start = data.as_ptr().wrapping_add(rows.start * row_stride + depth.start);
                Some(Prefetch::rows(start, row_stride, rows.len(), depth.len()))
            }
            Left::Strided { .. } | Left::Gathered { .. } => None,
        }
    }

    /// Multiplies all rows by a micro-panel, over one block of the depth.
    ///
    /// # Safety
    /// The block must lie within the left factor's depth, the micro-panel must hold the block, and `epilogue` and `out`
    /// must hold all rows and the micro-panel's columns.
    unsafe fn gemm(
        &mut self,
        block: Range<usize>,
        micro_panel: &MicroPanel<'_>,
        epilogue: Epilogue<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        match self.rows {
            Left::Strided { data, rows, row_stride, depth_stride } => {
                let start = data.as_ptr().wrapping_add(block.start * depth_stride);
                let a = StridedRows { start, rows, row_stride, depth: block.len(), depth_stride };
                // SAFETY: the caller upholds the contract for these rows.
                unsafe { self.kernel.run_strided(a, micro_panel, epilogue, out, stride) };
            }
            Left::Gathered { data, starts, rows, length } => {
                let strips = self.kernel.strips(rows);
                for strip in 0..strips {
                    let row = rows * strip / strips;
                    let count = rows * (strip + 1) / strips - row;
                    let starts = |part: usize| &starts[part * rows + row..][..count];
                    gathered_runs(data, &self.zeros, starts, length, block.clone(), &mut self.runs);
                    let strip = Strip { rows: count, runs: &self.runs };
                    let (epilogue, out) =
                        (epilogue.starting_at(row, 0), out.wrapping_add(row * stride));
                    // SAFETY: the caller upholds the contract for these rows.
                    unsafe { self.kernel.run(strip, micro_panel, epilogue, out, stride) };
                }
            }
        }
    }
}

/// Whether a column of panels of rows so far apart shares a few places of the first-level cache, so that it has to be
/// read again for each strip.
fn is_slow(stride: usize) -> bool {
    stride.is_multiple_of(4 * PANEL)
}

/// How many columns of `C`, of so many rows, stay in the second-level cache until all blocks of the depth are added.
fn cached_columns(rows: usize) -> usize {
    (L2_FLOATS / (rows.max(1) * NR)).max(1) * NR
}

/// The first micro-panel of `columns`, over a block of the depth, which `rows` rows are multiplied by.
///
/// - `packed`: the buffer for one that cannot be read where it lies
fn micro_panel<'a>(
    b: Right<'a>,
    rows: usize,
    block: Range<usize>,
    columns: Range<usize>,
    packed: &'a mut Vec<f32>,
) -> MicroPanel<'a> {
    let column = columns.start;
    let panels = columns.len().div_ceil(PANEL).min(PANELS);
    let last = columns.len().min(NR) - (panels - 1) * PANEL;
    let (data, stride, row_stride) = match b {
        Right::Packed(PanelsView { data, depth, .. }) => {
            (&data[column * depth + block.start * PANEL..], depth * PANEL, PANEL)
        }
        Right::Rows { data, stride, width, .. } if rows >= PACKED_FOR && is_slow(stride) => {
            let length = block.len();
            packed.resize(PANELS * length * PANEL, 0.0);
            let to = packed.chunks_exact_mut(length * PANEL).take(panels);
            let data = &data[block.start * stride..];
            to.enumerate().for_each(|(index, panel)| {
                pack_rows(data, stride, length, width, column / PANEL + index, panel);
            });
            (&**packed, length * PANEL, PANEL)
        }
        Right::Rows { data, stride, .. } => (&data[block.start * stride + column..], PANEL, stride),
        Right::Transposed { data, depth, width } => {
            let length = block.len();
            packed.resize(PANELS * length * PANEL, 0.0);
            let data = &data[column * depth + block.start..];
            let to = packed.chunks_exact_mut(length * PANEL).take(panels);
            to.enumerate().for_each(|(index, panel)| {
                pack_columns(data, depth, length, width - column, index, panel);
            });
            (&**packed, length * PANEL, PANEL)
        }
        Right::TransposedPanels { data, stride, width, .. } => {
            let length = block.len();
            packed.resize(PANELS * length * PANEL, 0.0);
            let to = packed.chunks_exact_mut(length * PANEL).take(panels);
            to.enumerate().for_each(|(index, panel)| {
                let first = column + index * PANEL;
                let data = &data[first * PANEL..];
                pack_from_panels(data, stride, block.clone(), PANEL.min(width - first), panel);
            });
            (&**packed, length * PANEL, PANEL)
        }
    };
    MicroPanel { data, stride, row_stride, panels, last, next: [None; 2] }
}

/// The runs of a strip of gathered rows: one for each part that the block touches.
fn gathered_runs<'a>(
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
