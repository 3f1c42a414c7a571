//! Dot products of many f16 rows with one vector: how similar a text is to each of a million captions.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::simd::vectorized;

/// Rows that one task of the thread pool takes: fixed, so that the result never depends on the number of threads.
const ROWS: usize = 1024;

/// Partial sums that are kept apart: their order is the same on every CPU.
const LANES: usize = 16;

/// The dot product of each row with `vector`, summed in f32.
///
/// - `rows`: `(n, width)`, row by row
/// - `vector`: `(width,)`
/// - returns `(n,)`
///
/// # Panics
/// If `rows` is not a whole number of rows.
pub fn row_products(rows: &[f16], vector: &[f32]) -> Vec<f32> {
    let width = vector.len();
    assert!(width > 0 && rows.len().is_multiple_of(width), "whole rows of {width} numbers");
    let mut products = vec![0.0; rows.len() / width];
    let tasks = products.par_chunks_mut(ROWS).zip(rows.par_chunks(ROWS * width));
    tasks.for_each_init(
        || vec![0.0; width],
        |row, (products, rows)| {
            for (product, half_row) in products.iter_mut().zip(rows.chunks_exact(width)) {
                half_row.convert_to_f32_slice(row);
                *product = dot(row, vector);
            }
        },
    );
    products
}

vectorized! {
    fn dot(a: &[f32], b: &[f32]) -> f32 {
        let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
        let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
        let mut sums = [0.0_f32; LANES];
        for (a, b) in a_blocks.zip(b_blocks) {
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        sums.iter().sum::<f32>() + rest.map(|(a, b)| a * b).sum::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_gets_its_product_at_every_width() {
        for width in [1, 15, 16, 64, 100] {
            let value = |i: usize| f16::from_f32(((i * 37 % 101) as f32 - 50.0) / 64.0);
            let rows: Vec<f16> = (0..width * 1500).map(value).collect();
            let vector: Vec<f32> = (0..width).map(|i| (i as f32 * 0.7).sin()).collect();

            let products = row_products(&rows, &vector);

            assert_eq!(products.len(), 1500);
            for (row, product) in rows.chunks(width).zip(products) {
                let exact: f64 =
                    row.iter().zip(&vector).map(|(a, b)| a.to_f64() * f64::from(*b)).sum();
                assert!((f64::from(product) - exact).abs() < 1e-4, "{product} {exact}");
            }
        }
    }
}
