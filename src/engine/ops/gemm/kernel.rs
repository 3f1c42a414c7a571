//! The micro-kernel: the innermost loops of a product, one version for each instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod operands;
mod portable;

pub(super) use self::operands::{MicroPanel, Run, StridedRows, Strip};
use super::blocking::{MR, NR, PANEL};
use super::epilogue::Epilogue;

/// The instruction set that the kernel uses.
#[derive(Clone, Copy)]
pub(super) enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Kernel {
    /// The best one that this CPU has.
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

    /// Multiplies any number of strided rows by a micro-panel.
    ///
    /// # Safety
    /// The rows of `a` must be readable, and one of its strides must be 1. The rest is as for [`Self::run`].
    pub(super) unsafe fn run_strided(
        self,
        a: StridedRows,
        micro_panel: &MicroPanel<'_>,
        epilogue: Epilogue<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if matches!(self, Self::Avx512) {
            // SAFETY: the feature was detected, and the caller vouches for the rest.
            return unsafe { avx512::run_strided(a, micro_panel, epilogue, out, stride) };
        }
        for row in (0..a.rows).step_by(MR) {
            let strip = Strip {
                rows: MR.min(a.rows - row),
                runs: &a.run(row),
                depth_stride: a.depth_stride,
            };
            // SAFETY: the caller upholds the contract for these rows, each of which is readable for the depth.
            unsafe {
                self.run(
                    strip,
                    micro_panel,
                    epilogue.starting_at(row),
                    out.add(row * stride),
                    stride,
                )
            };
        }
    }

    /// Multiplies the rows of one strip by a micro-panel.
    ///
    /// # Safety
    /// - Every run must be readable for its length. Where the stride of its depth is not 1, its rows are adjacent.
    /// - The micro-panel must hold its panels over all runs. Where their row stride is not [`PANEL`], its panels are
    ///   adjacent.
    /// - `epilogue` and `out` must hold all rows and columns, those of `out` `stride` apart.
    pub(super) unsafe fn run(
        self,
        strip: Strip<'_>,
        micro_panel: &MicroPanel<'_>,
        epilogue: Epilogue<'_>,
        out: *mut f32,
        stride: usize,
    ) {
        #[cfg(target_arch = "x86_64")]
        if matches!(self, Self::Avx512) {
            // SAFETY: the feature was detected, and the caller vouches for the rest.
            return unsafe { avx512::run(strip, micro_panel, epilogue, out, stride) };
        }
        let mut sums = [0.0f32; MR * NR];
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the features were detected, `sums` has room for all rows and panels, and the caller vouches for
            // the rest.
            Self::Avx2 => unsafe { avx2::run(strip, micro_panel, &mut sums) },
            // SAFETY: likewise, without the features.
            _ => unsafe { portable::run(strip, micro_panel, &mut sums) },
        }
        let columns = (micro_panel.panels - 1) * PANEL + micro_panel.last;
        for row in 0..strip.rows {
            // SAFETY: the caller vouches that `out` holds these rows and columns.
            let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * stride), columns) };
            for (column, (out, &product)) in out.iter_mut().zip(&sums[row * NR..]).enumerate() {
                let mut sum = if epilogue.accumulate { *out + product } else { product };
                if let Some(values) = epilogue.bias {
                    sum += values[column];
                }
                if let Some((values, stride)) = epilogue.addend {
                    sum += values[row * stride + column];
                }
                *out = sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::gemm::prefetch::Prefetch;

    /// All kernels that this CPU can run, not only the best.
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

    /// Small integers: their sum is the same in every order.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_definitions_product() {
        for kernel in kernels() {
            // Of panels one after the other, and of rows that hold all of them.
            for (rows, panels, last, row_major) in [
                (1, 1, 16, false),
                (8, 3, 16, false),
                (7, 2, 5, false),
                (19, 3, 1, false),
                (9, 3, 16, true),
                (7, 2, 5, true),
                (8, 1, 3, true),
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
            let a = numbers(rows * DEPTH, 1);
            let (row_stride_a, depth_stride) = if transposed { (1, rows) } else { (DEPTH, 1) };
            let (stride, row_stride) =
                if row_major { (PANEL, panels * PANEL) } else { (DEPTH * PANEL, PANEL) };
            let columns = (panels - 1) * PANEL + last;
            let b = numbers(panels * DEPTH * PANEL, 2);
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
                    let product: f32 = (0..DEPTH).filter(takes_part).map(|k| a(k) * b(k)).sum();
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
            assert_eq!(out, definition(|_| true), "{self:?}");

            // A part of the depth that is zeros for all rows of a strip.
            let rows = rows.min(MR);
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
            unsafe { kernel.run(strip, &micro_panel, epilogue, out.as_mut_ptr(), columns) };
            let expected = &definition(|k| !(2..6).contains(k))[..rows * columns];
            assert_eq!(out, expected, "a strip of {self:?}");
        }
    }
}
