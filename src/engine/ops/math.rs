//! Scalar functions and sums of slices, written so that the compiler vectorises them.

/// `eˣ` to about 1 unit in the last place, without branches.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Below −80 the result is negligible, but still far from subnormal numbers, with which arithmetic is many times
    // slower. Above 88 it would overflow, which no caller reaches.
    let x = x.clamp(-80.0, 88.0);
    // x = n ln 2 + r with |r| ≤ ln 2 / 2. Adding 1.5·2²³ rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let p = 1.987_569_1e-4_f32
        .mul_add(r, 1.398_2e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_5e-1)
        .mul_add(r, 0.5);
    let e = (p * r).mul_add(r, r) + 1.0;
    e * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

/// `2ˣ` for `x ≤ 0`, to 2 units in the last place, and 0 below −100.
///
/// Products with smaller powers would be subnormal numbers, with which arithmetic is many times slower.
#[inline(always)]
pub(crate) fn exp2_of_negative(x: f32) -> f32 {
    let power = exp2(x);
    if x < -100.0 { 0.0 } else { power } // keeps NaN
}

/// `2ˣ` to 2 units in the last place, of `x` clamped to between −100 and 100.
#[inline(always)]
pub(crate) fn exp2_clamped(x: f32) -> f32 {
    exp2(x.clamp(-100.0, 100.0))
}

/// `2ˣ` to 2 units in the last place for `x ≤ 100`, and a negligible number below −100.
#[inline(always)]
pub(crate) fn exp2_of_moderate(x: f32) -> f32 {
    exp2(if x < -100.0 { -100.0 } else { x }) // keeps NaN
}

/// `2ˣ`, if that is a normal number.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    // x = n + r with |r| ≤ 1/2, as in `exp`. The polynomial is 2ʳ, and n is added to the exponent.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x + ROUND;
    let r = x - (rounded - ROUND);
    let p = 1.330_060_7e-3_f32
        .mul_add(r, 9.669_691e-3)
        .mul_add(r, 5.550_558_5e-2)
        .mul_add(r, 0.240_222_83)
        .mul_add(r, std::f32::consts::LN_2)
        .mul_add(r, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(rounded.to_bits() << 23))
}

/// `1 / (1 + e^{−x})`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `1 − erf(|x|)` to 1.5e-7 (Abramowitz and Stegun, 7.1.26), given `e^{−x²}`, which callers also use.
#[inline(always)]
pub(crate) fn erf_complement(x: f32, exp_of_square: f32) -> f32 {
    let t = 1.0 / x.abs().mul_add(0.327_591_1, 1.0);
    let p = 1.061_405_4_f32
        .mul_add(t, -1.453_152_1)
        .mul_add(t, 1.421_413_8)
        .mul_add(t, -0.284_496_72)
        .mul_add(t, 0.254_829_6);
    p * t * exp_of_square
}

/// `Φ(x)` and `φ(x)`, the normal distribution's cumulative and density function.
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    let e = exp(-0.5 * x * x);
    let tail = 0.5 * erf_complement(x * std::f32::consts::FRAC_1_SQRT_2, e); // beyond |x| on one side
    (if x < 0.0 { tail } else { 1.0 - tail }, 0.398_942_3 * e)
}

/// Reduces sixteen lanes to one by joining halves. These are four dependent steps instead of fifteen, which counts
/// since most rows are short.
#[inline(always)]
pub(crate) fn reduce_lanes(lanes: [f32; 16], join: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| join(lanes[i], lanes[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| join(eight[i], eight[i + 4]));
    join(join(four[0], four[2]), join(four[1], four[3]))
}

/// The sum of `f` over a slice, in sixteen interleaved parts, so that the order is the same on every machine.
#[inline(always)]
pub(crate) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, &x) in sums.iter_mut().zip(chunk) {
            *sum += f(x);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f(x);
    }
    reduce_lanes(sums, |a, b| a + b)
}

/// [`sum_of`] over two slices of the same length.
#[inline(always)]
pub(crate) fn sum_of_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0f32; 16];
    let (chunks, others) = (a.chunks_exact(16), b.chunks_exact(16));
    let (rest, other) = (chunks.remainder(), others.remainder());
    for (chunk, other) in chunks.zip(others) {
        for ((sum, &x), &y) in sums.iter_mut().zip(chunk).zip(other) {
            *sum += f(x, y);
        }
    }
    for ((sum, &x), &y) in sums.iter_mut().zip(rest).zip(other) {
        *sum += f(x, y);
    }
    reduce_lanes(sums, |a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_erfc_are_close_to_the_exact_ones() {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "exp({x})");
            if x <= 0.0 && x > -69.0 {
                let power = exp2_of_negative(x);
                assert!((f64::from(power) / f64::from(x).exp2() - 1.0).abs() < 3e-7, "2^{x}");
            }
            // Negligible results are 0, or far from subnormal numbers.
            let tiny = exp2_of_negative(10.0 * -x.abs() - 100.5);
            assert!(tiny == 0.0 && exp(-10.0 * x.abs()) > 1e3 * f32::MIN_POSITIVE, "{x}");
            let complement = erf_complement(x, exp(-x * x));
            let exact = libm::erfc(f64::from(x.abs()));
            assert!((f64::from(complement) - exact).abs() < 4e-7, "erf({x})");
        }
    }
}
