//! Transposes of squares of [`PANEL`] rows and columns.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::blocking::PANEL;

/// Transposes `rows` rows of `from`, `stride` apart: their column `i` becomes row `i` of `to`.
///
/// There are at most [`PANEL`] rows and columns. The columns of `to` beyond `rows` become zero.
#[inline]
pub(crate) fn transpose(from: &[f32], stride: usize, rows: usize, to: &mut [[f32; PANEL]]) {
    assert!(rows <= PANEL && to.len() <= PANEL, "a square of {PANEL} holds no more");
    assert!(rows == 0 || from.len() >= (rows - 1) * stride + to.len(), "the rows are too short");
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the feature was detected, and the assertion bounds every read.
        return unsafe { avx512::transpose_avx512(from.as_ptr(), stride, rows, to) };
    }
    for (i, to) in to.iter_mut().enumerate() {
        for (row, to) in to[..rows].iter_mut().enumerate() {
            *to = from[row * stride + i];
        }
        to[rows..].fill(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_and_parts_of_squares_are_transposed() {
        const STRIDE: usize = 21;
        let from = (0..PANEL * STRIDE).map(|i| i as f32).collect::<Vec<f32>>();
        for (rows, columns) in [(16, 16), (16, 9), (5, 16), (7, 3), (0, 4), (16, 0)] {
            // As short as allowed.
            let from = &from[..(rows.max(1) - 1) * STRIDE + columns];
            let mut to = vec![[f32::NAN; PANEL]; columns];
            transpose(from, STRIDE, rows, &mut to);
            for (column, to) in to.iter().enumerate() {
                let element = |row: usize| match row < rows {
                    true => from[row * STRIDE + column],
                    false => 0.0,
                };
                let expected: [f32; PANEL] = std::array::from_fn(element);
                let what = format!("column {column} of {columns}, {rows} rows");
                assert_eq!(to.map(f32::to_bits), expected.map(f32::to_bits), "{what}");
            }
        }
    }
}
