//! Products of one short block of the depth, for callers that compute many of them: nothing is cut, packed or prefetched.

use super::blocking::PANEL;
use super::kernel::{Kernel, MicroPanel, Repeats, StridedRows};
use super::numbers::Numbers;

/// Products of one size: `C = A B`, or `C += A B` if they `accumulate`.
pub(crate) struct BlockProducts<'a> {
    pub(crate) count: usize,
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    /// A multiple of [`PANEL`].
    pub(crate) columns: usize,
    /// The left factors, `(rows, depth)` without gaps, and the floats from one to the next.
    pub(crate) a: (&'a [f32], usize),
    /// The right factors likewise: each is one panel `(depth, PANEL)` or more, one after the other.
    pub(crate) panels: (&'a [f32], usize),
    pub(crate) accumulate: bool,
}

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

    /// Computes all products in `c`, which are `c_stride` apart. Each is `(rows, columns)` without gaps.
    ///
    /// - `before_each`: called before each product, for callers that prefetch
    ///
    /// # Panics
    /// If the sizes do not fit together.
    pub(crate) fn multiply(
        self,
        products: &BlockProducts<'_>,
        (c, c_stride): (&mut [f32], usize),
        before_each: impl FnMut(),
    ) {
        let &BlockProducts { count, rows, depth, columns, accumulate, .. } = products;
        let ((a, a_stride), (panels, panels_stride)) = (products.a, products.panels);
        let fits = |length: usize, stride: usize, size: usize| {
            count == 0 || length >= (count - 1) * stride + size
        };
        assert!(
            rows * depth * columns > 0
                && columns.is_multiple_of(PANEL)
                && fits(a.len(), a_stride, rows * depth)
                && fits(panels.len(), panels_stride, depth * columns)
                && fits(c.len(), c_stride, rows * columns),
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
        let repeats = Repeats { count, of_a: a_stride, of_panels: panels_stride, of_out: c_stride };
        let c = c.as_mut_ptr();
        // SAFETY: there are the rows, the columns and a place for each product.
        unsafe {
            self.0.run_repeated(a, &micro_panel, accumulate, (c, columns), repeats, before_each);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers: their sum is the same in every order.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn each_product_is_the_definitions() {
        let kernel = BlockKernel::used();
        let (count, depth, columns, gap) = (3, 32, kernel.columns(), 5);
        for (rows, accumulate) in [(1, false), (8, true), (31, false), (128, true)] {
            let strides = [rows * depth + gap, depth * columns + gap, rows * columns + gap];
            let (a, panels) = (numbers(count * strides[0], 1), numbers(count * strides[1], 2));
            let mut expected = vec![0.5; count * strides[2]];
            for (index, expected) in expected.chunks_exact_mut(strides[2]).enumerate() {
                let (a, panels) = (&a[index * strides[0]..], &panels[index * strides[1]..]);
                for (place, expected) in expected[..rows * columns].iter_mut().enumerate() {
                    let (row, column) = (place / columns, place % columns);
                    let panel = &panels[column / PANEL * depth * PANEL + column % PANEL..];
                    let sum: f32 = (0..depth).map(|k| a[row * depth + k] * panel[k * PANEL]).sum();
                    *expected = if accumulate { *expected + sum } else { sum };
                }
            }

            let mut c = vec![0.5; count * strides[2]];
            let (a, panels) = ((&*a, strides[0]), (&*panels, strides[1]));
            let products = BlockProducts { count, rows, depth, columns, a, panels, accumulate };
            let mut calls = 0;
            kernel.multiply(&products, (&mut c, strides[2]), || calls += 1);
            assert_eq!(c, expected, "{rows} rows, {accumulate}");
            assert_eq!(calls, count);
        }
    }
}
