//! Products with a right factor whose rows lie in several places.

use std::ops::Range;

use super::blocking::{NR, PANEL};
use super::epilogue::Epilogue;
use super::factor::{Left, Right};
use super::panels::PanelsView;
use super::serial::gemm_columns;

/// `C = A B` of `columns` of `B`, whose rows, `width` wide, lie in several places; `C` has just those columns.
pub(crate) fn gemm_stacked(
    a: Left<'_>,
    parts: &[&[f32]],
    width: usize,
    columns: Range<usize>,
    c: &mut [f32],
) {
    /// Columns that are packed at once, and stay in the second-level cache.
    const BLOCK: usize = 8 * NR;
    let depth = parts.iter().map(|part| part.len() / width).sum();
    let stride = columns.len();
    assert!(c.len() >= a.count() * stride, "the product does not fit");
    let mut data = vec![0.0; depth * BLOCK];
    for start in columns.clone().step_by(BLOCK) {
        let block = start..columns.end.min(start + BLOCK);
        // Row by row: whoever reads a panel of many rows first meets a new page with every one of them.
        for (k, row) in parts.iter().flat_map(|part| part.chunks_exact(width)).enumerate() {
            for (index, from) in row[block.clone()].chunks(PANEL).enumerate() {
                let to = &mut data[(index * depth + k) * PANEL..][..PANEL];
                to[..from.len()].copy_from_slice(from);
                to[from.len()..].fill(0.0);
            }
        }
        let panels = PanelsView { data: &data, depth, width: block.len() };
        let c = &mut c[start - columns.start..];
        // SAFETY: the assertion bounds every write, to columns of this block; `c` is exclusive.
        unsafe {
            let c = c.as_mut_ptr();
            gemm_columns(a, Right::Packed(panels), Epilogue::default(), 0..block.len(), c, stride);
        }
    }
}
