//! Winograd's minimal algorithms in one dimension. Two dimensions apply them to the columns, then to the rows.

use crate::engine::ops::vector::Vector;

/// Width of the widest input tile.
pub(super) const WIDEST: usize = 6;

/// F(m×m, 3×3): an output tile of `OUT`×`OUT` pixels from an input tile of `IN`×`IN`.
///
/// Arrays have room for the widest tile. What is beyond the tile's own width is not used.
pub(super) trait Minimal: Copy + Sync {
    const OUT: usize;
    const IN: usize = Self::OUT + 2;
    /// Places of a transformed tile, each of which is a matrix product.
    const PLACES: usize = Self::IN * Self::IN;
    /// `G`, `IN` rows.
    const FILTER: [[f32; 3]; WIDEST];

    /// `Bᵀ d`, `IN` values.
    fn input<V: Vector>(d: [V; WIDEST]) -> [V; WIDEST];

    /// `G g`, `IN` values from three.
    ///
    /// - `FUSED`: with fused multiply-adds, which are fewer instructions and round otherwise
    #[inline(always)]
    fn filter<V: Vector, const FUSED: bool>(g: [V; 3]) -> [V; WIDEST] {
        let mut values = [V::ZERO; WIDEST];
        for (value, row) in values.iter_mut().zip(Self::FILTER).take(Self::IN) {
            *value = filter_value::<V, FUSED>(row, g);
        }
        values
    }

    /// `Aᵀ m`, `OUT` values from `IN`.
    fn output<V: Vector>(m: [V; WIDEST]) -> [V; WIDEST];
}

/// One value of `G g`, by its row of `G`. Rows of opposite points share all but the last step.
#[inline(always)]
fn filter_value<V: Vector, const FUSED: bool>(row: [f32; 3], g: [V; 3]) -> V {
    match row {
        [a, 0.0, 0.0] => g[0] * a,
        [0.0, 0.0, c] => g[2] * c,
        [a, b, c] if FUSED => g[1].mul_add(V::splat(b), g[2].mul_add(V::splat(c), g[0] * a)),
        [a, b, c] => (g[0] * a + g[2] * c) + g[1] * b,
    }
}

/// F(4×4, 3×3): 36 multiplications where the definition has 144.
///
/// We interpolate at 0, ±3/4, ±3/2 and ∞: at the usual 0, ±1, ±2 and ∞ the error is four times as large.
#[derive(Clone, Copy)]
pub(super) struct Large;

/// The points besides 0 and ∞: ±P and ±Q.
const P: f32 = 0.75;
const Q: f32 = 1.5;
const PP: f32 = P * P;
const QQ: f32 = Q * Q;

impl Minimal for Large {
    const OUT: usize = 4;
    const FILTER: [[f32; 3]; WIDEST] = {
        const OF_P: f32 = 1.0 / (2.0 * PP * (PP - QQ));
        const OF_Q: f32 = 1.0 / (2.0 * QQ * (QQ - PP));
        [
            [1.0 / (PP * QQ), 0.0, 0.0],
            [OF_P, P * OF_P, PP * OF_P],
            [OF_P, -P * OF_P, PP * OF_P],
            [OF_Q, Q * OF_Q, QQ * OF_Q],
            [OF_Q, -Q * OF_Q, QQ * OF_Q],
            [0.0, 0.0, 1.0],
        ]
    };

    #[inline(always)]
    fn input<V: Vector>(d: [V; WIDEST]) -> [V; WIDEST] {
        let (even_p, odd_p) = (d[4] - d[2] * QQ, (d[3] - d[1] * QQ) * P);
        let (even_q, odd_q) = (d[4] - d[2] * PP, (d[3] - d[1] * PP) * Q);
        [
            d[0] * (PP * QQ) - d[2] * (PP + QQ) + d[4],
            even_p + odd_p,
            even_p - odd_p,
            even_q + odd_q,
            even_q - odd_q,
            d[1] * (PP * QQ) - d[3] * (PP + QQ) + d[5],
        ]
    }

    #[inline(always)]
    fn output<V: Vector>(m: [V; WIDEST]) -> [V; WIDEST] {
        let (sum_p, sum_q) = (m[1] + m[2], m[3] + m[4]);
        let (difference_p, difference_q) = ((m[1] - m[2]) * P, (m[3] - m[4]) * Q);
        [
            m[0] + sum_p + sum_q,
            difference_p + difference_q,
            sum_p * PP + sum_q * QQ,
            difference_p * PP + difference_q * QQ + m[5],
            V::ZERO,
            V::ZERO,
        ]
    }
}

/// F(2×2, 3×3) at 0, ±1 and ∞: 16 multiplications where the definition has 36.
#[derive(Clone, Copy)]
pub(super) struct Small;

impl Minimal for Small {
    const OUT: usize = 2;
    const FILTER: [[f32; 3]; WIDEST] =
        [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0], [0.0; 3], [0.0; 3]];

    #[inline(always)]
    fn input<V: Vector>(d: [V; WIDEST]) -> [V; WIDEST] {
        [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3], V::ZERO, V::ZERO]
    }

    #[inline(always)]
    fn output<V: Vector>(m: [V; WIDEST]) -> [V; WIDEST] {
        [m[0] + m[1] + m[2], m[1] - m[2] - m[3], V::ZERO, V::ZERO, V::ZERO, V::ZERO]
    }
}
