//! The matrix product (gemm) under convolution, linear layers and attention on the CPU.
//!
//! `C = A B + epilogue`, blocked as in BLIS. The innermost loop computes a micro-tile of [`MR`](blocking::MR) rows and
//! [`NR`] columns. It reads `B` in panels of [`PANEL`] columns, which are packed, part of row-major rows, or transposed
//! into a buffer one micro-panel at a time. Rows of `A` are never packed: they are rows of a matrix, or the pixels
//! under each position of a convolution's kernel.
//!
//! The depth is cut into blocks at fixed places, and each element of `C` is summed in one order, whatever the number of
//! rows, columns or threads. So a row that is computed alone has the same bits as among others.

mod block;
mod blocking;
mod copies;
mod epilogue;
mod factor;
mod frozen;
mod in_cache;
mod kernel;
mod numbers;
mod pairs;
mod panels;
mod parallel;
mod prefetch;
mod serial;
mod stacked;
mod transpose;

pub(super) use self::block::{BlockKernel, BlockProducts};
pub(super) use self::blocking::{NR, PANEL};
pub(super) use self::copies::CopyPlace;
pub use self::copies::{HeldCopies, TrainingCopies};
pub(super) use self::epilogue::Epilogue;
pub(super) use self::factor::{Left, Right, Start};
pub(super) use self::frozen::FrozenMatrix;
pub(super) use self::in_cache::{gemm_in_cache, gemm_in_cache_to};
pub(super) use self::numbers::Numbers;
pub(super) use self::pairs::{pair_rows, pair_steps, paired, paired_steps};
pub(super) use self::panels::{Panels, PanelsView, pack_columns, pack_rows};
pub(super) use self::parallel::{par_blocks, par_gemm, par_gemm_rows, par_gemm_rows_then};
pub(super) use self::prefetch::{Prefetch, PrefetchShares};
pub(super) use self::serial::gemm_columns;
pub(super) use self::stacked::gemm_stacked;
pub(super) use self::transpose::transpose;

#[cfg(test)]
mod tests {
    use super::serial::gemm;
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
    }

    fn naive(a: &[f32], b: &[f32], rows: usize, depth: usize, width: usize) -> Vec<f64> {
        let mut c = vec![0.0; rows * width];
        for row in 0..rows {
            for k in 0..depth {
                for column in 0..width {
                    c[row * width + column] +=
                        f64::from(a[row * depth + k]) * f64::from(b[k * width + column]);
                }
            }
        }
        c
    }

    fn assert_close(actual: &[f32], expected: &[f64]) {
        for (actual, expected) in actual.iter().zip(expected) {
            assert!((f64::from(*actual) - expected).abs() < 1e-4, "{actual} for {expected}");
        }
    }

    #[test]
    fn products_match_the_definition_in_either_direction() {
        for (rows, depth, width) in [
            (1, 1, 1),
            (7, 5, 3),
            (8, 16, 48),
            (9, 300, 49),
            (130, 270, 200),
            (33, 600, 31),
            (130, 340, 250), // in rows of 256 floats, which are packed for so many rows
        ] {
            let (a, b) = (numbers(rows * depth), numbers(depth * width));
            let expected = naive(&a, &b, rows, depth, width);
            let panels = Panels::from_rows(&b, width, depth, width);
            let mut c = vec![0.0; rows * width];
            par_gemm_rows(&a, Right::Packed(panels.view()), Epilogue::default(), &mut c);
            assert_close(&c, &expected);

            // The same factor, read where it lies, in rows that hold whole panels.
            let stride = width.next_multiple_of(PANEL);
            let mut padded = vec![f32::NAN; depth * stride];
            for (to, from) in padded.chunks_exact_mut(stride).zip(b.chunks_exact(width)) {
                to[..width].copy_from_slice(from);
            }
            let mut c = vec![0.0; rows * width];
            let right = Right::Rows { data: &padded, stride, width, numbers: Numbers::Floats };
            par_gemm_rows(&a, right, Epilogue::default(), &mut c);
            assert_close(&c, &expected);

            // The same factor, where its transpose lies.
            let data: Vec<f32> =
                (0..width * depth).map(|i| b[i % depth * width + i / depth]).collect();
            let mut c = vec![0.0; rows * width];
            let right = Right::Transposed { data: &data, depth, width };
            par_gemm_rows(&a, right, Epilogue::default(), &mut c);
            assert_close(&c, &expected);

            // The transpose of that, where it is packed.
            let panels = Panels::from_rows(&data, depth, width, depth);
            let mut packed = vec![0.0; rows * width];
            let right = Right::transpose_of(panels.view());
            par_gemm_rows(&a, right, Epilogue::default(), &mut packed);
            assert_eq!(packed, c);
        }
    }

    #[test]
    fn a_row_has_the_same_bits_alone_whatever_the_blocks() {
        let (rows, depth, width) = (41, 800, 70); // several long blocks
        let (a, b) = (numbers(rows * depth), numbers(depth * width));
        let short = Panels::from_rows(&b, width, depth, width);
        let long = Panels::from_rows(&b, width, depth, width).in_long_blocks();
        for panels in [short, long] {
            let right = Right::Packed(panels.view());
            let mut all = vec![0.0; rows * width];
            par_gemm_rows(&a, right, Epilogue::default(), &mut all);
            assert_close(&all, &naive(&a, &b, rows, depth, width));
            for (row, among_others) in a.chunks_exact(depth).zip(all.chunks_exact(width)) {
                let mut alone = vec![0.0; width];
                par_gemm_rows(row, right, Epilogue::default(), &mut alone);
                assert_eq!(alone, among_others);
            }
        }
    }

    #[test]
    fn what_is_added_is_added_once() {
        // The larger one has several groups of columns, and several blocks of the depth in each.
        for (rows, depth, width) in [(11, 700, 53), (600, 400, 320)] {
            let (a, b) = (numbers(rows * depth), numbers(depth * width));
            let (bias, matrix) = (numbers(width), numbers(rows * width));
            let mut expected = naive(&a, &b, rows, depth, width);
            for (i, value) in expected.iter_mut().enumerate() {
                *value += f64::from(bias[i % width]) + f64::from(matrix[i]) + 0.5;
            }
            let panels = Panels::from_rows(&b, width, depth, width);
            let transposed: Vec<f32> =
                (0..width * depth).map(|i| b[i % depth * width + i / depth]).collect();
            let rights = [
                Right::Packed(panels.view()),
                Right::Transposed { data: &transposed, depth, width },
            ];
            for right in rights {
                let mut c = vec![0.5; rows * width];
                let addend = Some((&*matrix, width));
                let epilogue = Epilogue { bias: Some(&bias), addend, accumulate: true };
                gemm(Left::rows(&a, depth), right, epilogue, &mut c, width);
                assert_close(&c, &expected);
            }
        }
    }
}
