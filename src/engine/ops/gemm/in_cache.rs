//! Products whose operands lie in the caches, for callers that compute many small ones: nothing is packed or prefetched.

use super::blocking::PANEL;
use super::factor::{Left, Right, blocks, check, check_right};
use super::kernel::{Kernel, MicroPanel, StridedRows};
use super::panels::PanelsView;

/// `C = A B`, or `C += A B` if it `accumulate`s, with the sums of [`gemm()`](super::serial::gemm). `C` is row-major with rows
/// `stride` apart.
///
/// # Panics
/// If `A` is gathered, or `B` neither packed nor rows.
pub(crate) fn gemm_in_cache(
    a: Left<'_>,
    b: Right<'_>,
    accumulate: bool,
    c: &mut [f32],
    stride: usize,
) {
    let rows = a.count();
    assert!(rows == 0 || c.len() >= (rows - 1) * stride + b.width(), "the product does not fit");
    // SAFETY: the assertion bounds every write; `c` is exclusive.
    unsafe { gemm_in_cache_to(a, b, accumulate, c.as_mut_ptr(), stride) }
}

/// [`gemm_in_cache`] for callers whose threads write to different columns of the same rows.
///
/// # Safety
/// `c` must be valid for as many rows as `a` has, `stride` apart, and as many columns as `b` has, and nothing else may
/// access them.
pub(crate) unsafe fn gemm_in_cache_to(
    a: Left<'_>,
    b: Right<'_>,
    accumulate: bool,
    c: *mut f32,
    stride: usize,
) {
    let (depth, width) = (b.depth(), b.width());
    check(a, depth);
    check_right(b, depth, width);
    let Left::Strided { data, rows, row_stride, depth_stride } = a else {
        panic!("gathered rows are multiplied elsewhere");
    };
    if rows == 0 || width == 0 {
        return;
    }
    let kernel = Kernel::used(b.numbers());
    for (index, block) in blocks(a, depth, kernel.depth(b.blocks())).enumerate() {
        let (b, stride_b, row_stride_b) = match b {
            Right::Packed(PanelsView { data, .. }) => {
                (&data[block.start * PANEL..], depth * PANEL, PANEL)
            }
            Right::Rows { data, stride, .. } => (&data[block.start * stride..], PANEL, stride),
            Right::Transposed { .. } | Right::TransposedPanels { .. } => {
                panic!("transposes are multiplied elsewhere")
            }
        };
        let panels = width.div_ceil(PANEL);
        let micro_panel = MicroPanel {
            data: b,
            stride: stride_b,
            row_stride: row_stride_b,
            panels,
            last: width - (panels - 1) * PANEL,
            next: [None; 2],
        };
        let start = data.as_ptr().wrapping_add(block.start * depth_stride);
        let a = StridedRows { start, rows, row_stride, depth: block.len(), depth_stride };
        // SAFETY: the factors were checked, and the caller vouches for these rows and columns of `c`.
        unsafe { kernel.run_in_cache(a, &micro_panel, accumulate || index > 0, c, stride) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::blocking::NR;
    use super::super::epilogue::Epilogue;
    use super::super::numbers::Numbers;
    use super::super::panels::Panels;
    use super::super::serial::gemm;
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    #[test]
    fn products_have_the_bytes_of_those_that_pack_and_prefetch() {
        // More columns than a micro-panel has, and a depth that is cut.
        for (rows, depth, width) in [(7, 10, 3 * NR), (10, 64, NR + 3), (13, 700, 30)] {
            let (a, b) = (numbers(rows * depth), numbers(depth * width.next_multiple_of(PANEL)));
            let stride = width.next_multiple_of(PANEL);
            let packed = Panels::from_rows(&b, stride, depth, width);
            let numbers = Numbers::Floats;
            for right in
                [Right::Packed(packed.view()), Right::Rows { data: &b, stride, width, numbers }]
            {
                for left in [
                    Left::rows(&a, depth),
                    Left::Strided { data: &a, rows, row_stride: 1, depth_stride: rows },
                ] {
                    for accumulate in [false, true] {
                        let mut expected = vec![0.5; rows * width];
                        let epilogue = Epilogue { accumulate, ..Epilogue::default() };
                        gemm(left, right, epilogue, &mut expected, width);
                        let mut c = vec![0.5; rows * width];
                        gemm_in_cache(left, right, accumulate, &mut c, width);
                        assert_eq!(c, expected, "{rows}×{depth}×{width}, {accumulate}");
                    }
                }
            }
        }
    }
}
