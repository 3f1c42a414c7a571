//! Products with a right factor that is stored in several parts.

use std::ops::Range;

use super::blocking::{NR, PANEL};
use super::epilogue::Epilogue;
use super::factor::{Left, Right};
use super::panels::PanelsView;
use super::serial::gemm_columns;

/// `C = A B` for some `columns` of `B`, whose rows of `width` floats are stored in several parts, one below the other.
///
/// `C` has these columns alone.
pub(crate) fn gemm_stacked(
    a: Left<'_>,
    parts: &[&[f32]],
    width: usize,
    columns: Range<usize>,
    c: &mut [f32],
) {
    /// Columns that are packed at once and stay in the second-level cache.
    const BLOCK: usize = 8 * NR;
    let depth = parts.iter().map(|part| part.len() / width).sum();
    let stride = columns.len();
    assert!(c.len() >= a.count() * stride, "the product does not fit");
    let mut data = vec![0.0; depth * BLOCK];
    for start in columns.clone().step_by(BLOCK) {
        let block = start..columns.end.min(start + BLOCK);
        // Packed row by row: panel by panel, each row would be on another page.
        for (k, row) in parts.iter().flat_map(|part| part.chunks_exact(width)).enumerate() {
            for (index, from) in row[block.clone()].chunks(PANEL).enumerate() {
                let to = &mut data[(index * depth + k) * PANEL..][..PANEL];
                to[..from.len()].copy_from_slice(from);
                to[from.len()..].fill(0.0);
            }
        }
        let panels = PanelsView::new(&data, depth, block.len());
        let c = &mut c[start - columns.start..];
        // SAFETY: the assertion bounds every write, and `c` is exclusive.
        unsafe {
            let c = c.as_mut_ptr();
            gemm_columns(a, Right::Packed(panels), Epilogue::default(), 0..block.len(), c, stride);
        }
    }
}
