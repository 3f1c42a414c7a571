//! Products of one short block of the depth, for callers that compute many of them: nothing is cut, packed or prefetched.

use super::blocking::PANEL;
use super::kernel::{Kernel, MicroPanel, StridedRows};
use super::numbers::Numbers;

/// The kernel of such products.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockKernel(Kernel);

impl BlockKernel {
    /// That of the instruction set in use.
    pub(crate) fn used() -> Self {
        Self(Kernel::used(Numbers::Floats))
    }

    /// Columns for which it is fastest: whole panels, in at least two registers.
    pub(crate) fn columns(self) -> usize {
        PANEL.max(2 * self.0.lanes())
    }

    /// `C = A B` of several pairs of factors, or `C += A B` if it `accumulates`.
    ///
    /// - `a`: each is `(rows, depth)` without gaps
    /// - `panels`: each is one panel `(depth, PANEL)` or more, one after the other
    /// - `c`: each is `(rows, columns)` without gaps
    /// - `before_each`: called before each product, for callers that prefetch
    ///
    /// # Panics
    /// If the sizes do not fit together.
    pub(crate) fn multiply(
        self,
        count: usize,
        (a, a_stride): (&[f32], usize),
        (panels, panels_stride): (&[f32], usize),
        (c, c_stride): (&mut [f32], usize),
        Sizes { rows, depth, columns }: Sizes,
        accumulate: bool,
        before_each: impl FnMut(),
    ) {
        let fits = |length: usize, stride: usize, size: usize| {
            count == 0 || length >= (count - 1) * stride + size
        };
        assert!(
            rows * depth * columns > 0
                && columns.is_multiple_of(PANEL)
                && fits(a.len(), a_stride, rows * depth)
                && fits(panels.len(), panels_stride, depth * columns)
                && fits(c.len(), c_stride, rows * columns)
                && c_stride >= rows * columns,
            "the products have other sizes"
        );
        let a = StridedRows { start: a.as_ptr(), rows, row_stride: depth, depth, depth_stride: 1 };
        let micro_panel = MicroPanel {
            data: panels,
            stride: depth * PANEL,
            row_stride: PANEL,
            panels: columns / PANEL,
            last: PANEL,
            next: [None; 2],
        };
        let strides = [a_stride, panels_stride, c_stride];
        let c = c.as_mut_ptr();
        // SAFETY: `a` has the rows, `panels` the columns, and `c` a place for each product.
        unsafe { self.0.run_many(count, a, &micro_panel, accumulate, c, strides, before_each) };
    }
}

/// The sizes of one product.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// A multiple of [`PANEL`].
    pub(crate) columns: usize,
}
