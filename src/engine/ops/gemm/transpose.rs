//! Transposes of squares of [`PANEL`] rows and columns.

use super::blocking::PANEL;
use crate::engine::ops::simd::in_vectors;
use crate::engine::ops::vector::QUAD;

/// Transposes `rows` rows of `from`, `stride` apart: their column `i` becomes row `i` of `to`.
///
/// There are at most [`PANEL`] rows and columns. The columns of `to` beyond `rows` become zero.
#[inline]
pub(crate) fn transpose(from: &[f32], stride: usize, rows: usize, to: &mut [[f32; PANEL]]) {
    assert!(rows <= PANEL && to.len() <= PANEL, "a square of {PANEL} holds no more");
    assert!(rows == 0 || from.len() >= (rows - 1) * stride + to.len(), "the rows are too short");
    // SAFETY: the assertion bounds every read.
    unsafe { transpose_quads(from.as_ptr(), stride, rows, to) }
}

in_vectors! {
    /// [`transpose`], four columns at a time.
    ///
    /// Each quad of a register is loaded from a row of its own, so that only squares of four remain to be transposed within
    /// the quads.
    ///
    /// # Safety
    /// Each of the `rows` must be readable for as many floats as `to` has rows.
    unsafe fn transpose_quads<V>(from: *const f32, stride: usize, rows: usize, to: &mut [[f32; PANEL]]) {
        for (at, to) in to.chunks_mut(QUAD).enumerate() {
            let from = from.wrapping_add(at * QUAD);
            for first in (0..PANEL).step_by(V::LANES) {
                let from = from.wrapping_add(first * stride);
                let own = rows.saturating_sub(first);
                // In a loop, since `array::from_fn` would call the loads from code without their instruction set.
                let mut x = [V::ZERO; QUAD];
                for (i, x) in x.iter_mut().enumerate() {
                    let from = from.wrapping_add(i * stride);
                    // SAFETY: these columns are readable in all rows, as the caller vouches.
                    *x = unsafe {
                        if to.len() == QUAD && own >= V::LANES {
                            V::load_quads(from, QUAD * stride)
                        } else {
                            let quads = own.saturating_sub(i).div_ceil(QUAD).min(V::LANES / QUAD);
                            V::load_some_quads(from, QUAD * stride, quads, to.len())
                        }
                    };
                }
                let x = V::transpose_quads(x);
                if let [a, b, c, d] = &mut *to {
                    x[0].write(&mut a[first..]);
                    x[1].write(&mut b[first..]);
                    x[2].write(&mut c[first..]);
                    x[3].write(&mut d[first..]);
                } else {
                    to.iter_mut().zip(x).for_each(|(to, x)| x.write(&mut to[first..]));
                }
            }
        }
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
