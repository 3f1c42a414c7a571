//! Products by inner products over the depth, which is in the lanes of a register.
//!
//! The loops of `gemm` have columns in the lanes, and compute as many as fill a tile: sixteen where a head has ten
//! channels.

use crate::engine::ops::gemm::{PANEL, PanelsView};
use crate::engine::ops::simd::in_vectors;
use crate::engine::ops::vector::{QUAD, Vector};

/// Rows that stay in the first-level cache while all columns pass by.
const ROWS: usize = 6;
/// Most columns of a tile.
const COLUMNS: usize = 5;

/// Whether inner products of so many columns are computed faster than they are by `gemm_in_cache`, because they are less
/// than about three quarters of what that computes.
pub(super) fn are_faster(columns: usize) -> bool {
    4 * columns <= 3 * columns.next_multiple_of(PANEL)
}

/// The left factor, `(rows, depth)`, in rows `stride` apart.
///
/// What pads the depth to whole panels takes part: it must be zeros, here and in the other factor.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
}

/// Where `(rows, columns)` products go, in rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Products {
    pub(super) place: *mut f32,
    pub(super) stride: usize,
    /// Whether they are added to what is there.
    pub(super) accumulate: bool,
}

in_vectors! {
    /// `C = scale · A Bᵀ`, or `C += …`, of packed `B`, which is `(columns, depth)`.
    ///
    /// # Safety
    /// `c` must be valid for the rows and columns, and nothing else may access them.
    pub(super) unsafe fn multiply<V>(a: Rows<'_>, b: PanelsView<'_>, scale: f32, c: Products) {
        let (rows, columns) = (a.values.len() / a.stride, b.depth);
        let tiles = columns.div_ceil(COLUMNS);
        for row in (0..rows).step_by(ROWS) {
            let rows = ROWS.min(rows - row);
            for tile in 0..tiles {
                let (first, end) = (columns * tile / tiles, columns * (tile + 1) / tiles);
                let place = (row, first);
                // SAFETY: the caller vouches for these rows and columns.
                unsafe {
                    match end - first {
                        1 => strips::<V, 6, 1>(a, b, scale, c, place, rows),
                        2 => strips::<V, 6, 2>(a, b, scale, c, place, rows),
                        3 => strips::<V, 3, 3>(a, b, scale, c, place, rows),
                        4 => strips::<V, 3, 4>(a, b, scale, c, place, rows),
                        _ => strips::<V, 2, COLUMNS>(a, b, scale, c, place, rows),
                    }
                }
            }
        }
    }
}

/// `rows` rows by `N` columns from `place` on, `R` rows at a time.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn strips<V: Vector, const R: usize, const N: usize>(
    a: Rows<'_>,
    b: PanelsView<'_>,
    scale: f32,
    c: Products,
    (row, column): (usize, usize),
    rows: usize,
) {
    let whole = rows - rows % R;
    // SAFETY: the caller vouches for these rows and columns.
    unsafe {
        for first in (0..whole).step_by(R) {
            tile::<V, R, N>(a, b, scale, c, (row + first, column));
        }
        for first in whole..rows {
            tile::<V, 1, N>(a, b, scale, c, (row + first, column));
        }
    }
}

/// `R` rows by `N` columns from `place` on.
///
/// # Safety
/// As for [`multiply`].
#[inline(always)]
unsafe fn tile<V: Vector, const R: usize, const N: usize>(
    a: Rows<'_>,
    b: PanelsView<'_>,
    scale: f32,
    c: Products,
    (row, column): (usize, usize),
) {
    let panels = b.width.div_ceil(PANEL);
    let rows: [&[f32]; R] =
        std::array::from_fn(|r| &a.values[(row + r) * a.stride..][..panels * PANEL]);
    let mut sums = [[V::ZERO; N]; R];
    for panel in 0..panels {
        let columns = &b.data[(panel * b.depth + column) * PANEL..][..N * PANEL];
        for lane in (0..PANEL).step_by(V::LANES) {
            // SAFETY: a panel has so many floats in each row and each column.
            unsafe {
                let mut of_rows = [V::ZERO; R];
                for (of_row, row) in of_rows.iter_mut().zip(rows) {
                    *of_row = V::load(row.as_ptr().wrapping_add(panel * PANEL + lane));
                }
                for n in 0..N {
                    let of_column = V::load(columns.as_ptr().wrapping_add(n * PANEL + lane));
                    for (sums, of_row) in sums.iter_mut().zip(of_rows) {
                        sums[n] = of_row.mul_add(of_column, sums[n]);
                    }
                }
            }
        }
    }
    for quad in (0..R * N).step_by(QUAD) {
        let place_of = |index: usize| (index / N, index % N);
        let mut registers = [V::ZERO; QUAD];
        for (index, register) in registers.iter_mut().enumerate().take(R * N - quad) {
            let (r, n) = place_of(quad + index);
            *register = sums[r][n];
        }
        let products = sums_of_lanes(registers);
        for (index, product) in products.into_iter().enumerate().take(R * N - quad) {
            let (r, n) = place_of(quad + index);
            let place = c.place.wrapping_add((row + r) * c.stride + column + n);
            // SAFETY: the caller vouches for this place.
            unsafe {
                let before = if c.accumulate { *place } else { 0.0 };
                *place = product * scale + before;
            }
        }
    }
}

/// The sums of the lanes of four registers.
#[inline(always)]
fn sums_of_lanes<V: Vector>(registers: [V; QUAD]) -> [f32; QUAD] {
    let [a, b, c, d] = V::transpose_quads(registers);
    let mut quads = [[0.0; QUAD]; PANEL / QUAD];
    ((a + b) + (c + d)).write(quads.as_flattened_mut());
    let mut sums = quads[0];
    for quad in &quads[1..V::LANES / QUAD] {
        sums.iter_mut().zip(quad).for_each(|(sum, x)| *sum += x);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ops::gemm::Panels;

    #[test]
    fn products_are_those_of_the_definition() {
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 7 + seed) % 11) as f32 - 5.0).collect()
        };
        for (rows, depth, columns) in
            [(1, 16_usize, 1), (6, 16, 10), (7, 45, 2), (11, 40, 3), (13, 256, 11), (64, 30, 24)]
        {
            let width = depth.next_multiple_of(PANEL);
            let mut a = numbers(rows * width, 1);
            a.chunks_exact_mut(width).for_each(|row| row[depth..].fill(0.0));
            let b = numbers(depth * columns, 2);
            // Rows of the transpose, (depth, columns), packed by columns of B.
            let packed = Panels::from_columns(&b, columns, columns, depth);
            for accumulate in [false, true] {
                let stride = columns + 3;
                let mut c = vec![0.5; rows * stride];
                let place = c.as_mut_ptr();
                let products = Products { place, stride, accumulate };
                // SAFETY: `c` has these rows and columns.
                unsafe {
                    multiply(Rows { values: &a, stride: width }, packed.view(), 2.0, products);
                }
                let element = |i: usize| -> f32 {
                    let (row, column) = (i / stride, i % stride);
                    if column >= columns {
                        return 0.5;
                    }
                    let step = |k: usize| a[row * width + k] * b[k * columns + column];
                    let product: f32 = (0..depth).map(step).sum();
                    2.0 * product + if accumulate { 0.5 } else { 0.0 }
                };
                let expected: Vec<f32> = (0..c.len()).map(element).collect();
                assert_eq!(c, expected, "{rows}×{depth}×{columns}, {accumulate}");
            }
        }
    }
}
