//! What the CPU kernels share: access to tensors' values, vectorised functions, pointers for parallel writes.

use std::ops::Deref;

use candle_core::{DType, Device, Result, Shape, Storage, Tensor, bail};

/// Buffers from this size on, in bytes, are worth larger pages.
const HUGE: usize = 4 << 20;

/// The values of a contiguous f32 tensor on the CPU, behind the lock that candle keeps them under.
pub(super) struct Values<Guard> {
    storage: Guard,
    start: usize,
    end: usize,
}

/// Reads a tensor's values.
pub(super) fn values(x: &Tensor) -> Result<Values<impl Deref<Target = Storage>>> {
    let (storage, layout) = x.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("an operation's argument of {:?} is not contiguous", layout.dims())
    };
    match &*storage {
        Storage::Cpu(values) if values.as_slice::<f32>().is_ok() => {}
        _ => bail!("an operation's argument is not f32 on the CPU"),
    }
    Ok(Values { storage, start, end })
}

impl<Guard: Deref<Target = Storage>> Deref for Values<Guard> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(values) => {
                values.as_slice::<f32>().map_or(&[], |values| &values[self.start..self.end])
            }
            _ => &[],
        }
    }
}

/// A tensor of values on the CPU.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// A new row of values that `fill` writes, every one of them.
///
/// Zeroing it first would cost as much as many of the operations themselves, and so would faulting in small pages.
pub(crate) fn filled(len: usize, fill: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut values: Vec<f32> = Vec::with_capacity(len);
    let spare = std::ptr::from_mut(&mut values.spare_capacity_mut()[..len]) as *mut [f32];
    advise_huge_pages(spare);
    // SAFETY: the memory is ours and every bit pattern is a valid f32; `fill` writes before anybody reads.
    fill(unsafe { &mut *spare });
    // SAFETY: the capacity is there, and `fill` has written all of it.
    unsafe { values.set_len(len) };
    values
}

/// Asks for larger pages, which take one fault instead of 512.
fn advise_huge_pages(values: *mut [f32]) {
    const PAGE: usize = 2 << 20;
    let bytes = std::mem::size_of::<f32>() * values.len();
    if cfg!(target_os = "linux") && bytes >= HUGE {
        let start = values.cast::<u8>();
        let skipped = start.align_offset(PAGE);
        let length = bytes.saturating_sub(skipped) / PAGE * PAGE;
        // SAFETY: whole pages inside memory of ours; the advice does not change what it holds.
        unsafe { libc::madvise(start.wrapping_add(skipped).cast(), length, libc::MADV_HUGEPAGE) };
    }
}

/// Whether our CPU kernels apply: f32 on the CPU. Everything else goes through candle's own operations.
pub(super) fn applies(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// A pointer whose threads write to places of their own.
#[derive(Clone, Copy)]
pub(super) struct Shared(*mut f32);

// SAFETY: users of `at` promise that no two threads touch the same place.
unsafe impl Send for Shared {}
// SAFETY: likewise.
unsafe impl Sync for Shared {}

impl Shared {
    pub(super) fn new(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr())
    }

    /// The address of element `index`, which must be inside.
    pub(super) fn at(self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

/// Compiles a function once for each instruction set and picks the best at run time.
///
/// The body is ordinary Rust, which the compiler vectorises for each.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
                fn avx512($($arg: $type),*) $(-> $out)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $out)? { body($($arg),*) }
                if std::arch::is_x86_feature_detected!("avx512dq") && std::arch::is_x86_feature_detected!("avx512vl") {
                    // SAFETY: the features were detected.
                    return unsafe { avx512($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the features were detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}
pub(super) use vectorized;

/// Sixteen numbers that go through the same steps, where the compiler needs to be told.
pub(super) trait Lanes:
    Copy
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<f32, Output = Self>
{
    const ZERO: Self;

    /// The first sixteen of `from`.
    fn load(from: &[f32]) -> Self;

    /// Into the first sixteen of `to`.
    fn store(self, to: &mut [f32]);
}

/// For any CPU.
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 16]);

macro_rules! plain {
    ($name:ident, $method:ident, $op:tt) => {
        impl std::ops::$name for Plain {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(std::array::from_fn(|i| self.0[i] $op other.0[i]))
            }
        }
    };
}
plain!(Add, add, +);
plain!(Sub, sub, -);

impl std::ops::Mul<f32> for Plain {
    type Output = Self;

    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        Self(self.0.map(|x| x * factor))
    }
}

impl Lanes for Plain {
    const ZERO: Self = Self([0.0; 16]);

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(std::array::from_fn(|i| from[i]))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..16].copy_from_slice(&self.0);
    }
}

/// One register, for functions that AVX-512 was detected for.
#[cfg(target_arch = "x86_64")]
pub(super) mod wide {
    use std::arch::x86_64::*;

    use super::Lanes;

    #[derive(Clone, Copy)]
    pub(in crate::engine::ops) struct Wide(__m512);

    impl std::ops::Add for Wide {
        type Output = Self;

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: the module's.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }
    }

    impl std::ops::Sub for Wide {
        type Output = Self;

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: the module's.
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }
    }

    impl std::ops::Mul<f32> for Wide {
        type Output = Self;

        #[inline(always)]
        fn mul(self, factor: f32) -> Self {
            // SAFETY: the module's.
            Self(unsafe { _mm512_mul_ps(self.0, _mm512_set1_ps(factor)) })
        }
    }

    impl Lanes for Wide {
        // SAFETY: sixteen numbers, in either form.
        const ZERO: Self = Self(unsafe { std::mem::transmute::<[f32; 16], __m512>([0.0; 16]) });

        #[inline(always)]
        fn load(from: &[f32]) -> Self {
            let from = &from[..16];
            // SAFETY: sixteen numbers, and the module's.
            Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, to: &mut [f32]) {
            let to = &mut to[..16];
            // SAFETY: sixteen numbers, and the module's.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) };
        }
    }
}

/// Compiles a function that is generic over [`Lanes`], and over one thing more, for each instruction set and picks the
/// best at run time.
macro_rules! in_lanes {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$lanes:ident, $other:ident: $bound:ident>($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis fn $name<$other: $bound>($($arg: $type),*) {
            #[inline(always)]
            fn body<$lanes: $crate::engine::ops::cpu::Lanes, $other: $bound>($($arg: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::engine::ops::cpu::{Plain, wide::Wide};
                #[target_feature(enable = "avx512f")]
                fn avx512<$other: $bound>($($arg: $type),*) { body::<Wide, $other>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2<$other: $bound>($($arg: $type),*) { body::<Plain, $other>($($arg),*) }
                if std::arch::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the feature was detected.
                    return unsafe { avx512::<$other>($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the feature was detected.
                    return unsafe { avx2::<$other>($($arg),*) };
                }
            }
            body::<$crate::engine::ops::cpu::Plain, $other>($($arg),*)
        }
    };
}
pub(super) use in_lanes;

/// `eˣ` to 1 unit in the last place or so, without branches.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Beyond these the result is as good as 0, yet far enough from subnormal numbers, which take many times as long,
    // or so large that no caller meets it.
    let x = x.clamp(-80.0, 88.0);
    // x = n ln 2 + r with |r| ≤ ln 2 / 2; adding 1.5·2²³ rounds to an integer, which then stands in the low bits.
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

/// `2ˣ` for `x ≤ 0`, to 2 units in the last place; 0 below −100: what is multiplied by less becomes a subnormal number,
/// which takes many times as long.
#[inline(always)]
pub(super) fn exp2_of_negative(x: f32) -> f32 {
    // x = n + r with |r| ≤ 1/2, as in `exp`; then 2ʳ, and n goes into the exponent.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x + ROUND;
    let r = x - (rounded - ROUND);
    let p = 1.330_060_7e-3_f32
        .mul_add(r, 9.669_691e-3)
        .mul_add(r, 5.550_558_5e-2)
        .mul_add(r, 0.240_222_83)
        .mul_add(r, std::f32::consts::LN_2)
        .mul_add(r, 1.0);
    let power = f32::from_bits(p.to_bits().wrapping_add(rounded.to_bits() << 23));
    if x < -100.0 { 0.0 } else { power } // keeps NaN
}

/// `1 / (1 + e^{−x})`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `1 − erf(|x|)` to 1.5e-7 (Abramowitz and Stegun, 7.1.26), from `e^{−x²}`, which callers have use for.
#[inline(always)]
pub(super) fn erf_complement(x: f32, exp_of_square: f32) -> f32 {
    let t = 1.0 / x.abs().mul_add(0.327_591_1, 1.0);
    let p = 1.061_405_4_f32
        .mul_add(t, -1.453_152_1)
        .mul_add(t, 1.421_413_8)
        .mul_add(t, -0.284_496_72)
        .mul_add(t, 0.254_829_6);
    p * t * exp_of_square
}

/// One number of sixteen: halves are joined until one is left. That is four steps of waiting, where one number after
/// the other would be fifteen, and most rows are short.
#[inline(always)]
pub(super) fn join_lanes(lanes: [f32; 16], join: impl Fn(f32, f32) -> f32) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| join(lanes[i], lanes[i + 8]));
    let four: [f32; 4] = std::array::from_fn(|i| join(eight[i], eight[i + 4]));
    join(join(four[0], four[2]), join(four[1], four[3]))
}

/// The sum of `f` over a slice in 16 interleaved parts: one order, on every machine.
#[inline(always)]
pub(super) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
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
    join_lanes(sums, |a, b| a + b)
}

/// [`sum_of`] over two slices of the same length.
#[inline(always)]
pub(super) fn sum_of_pairs(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
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
    join_lanes(sums, |a, b| a + b)
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
            // What is nearly nothing is 0, or far enough from numbers that take long.
            let tiny = exp2_of_negative(10.0 * -x.abs() - 100.5);
            assert!(tiny == 0.0 && exp(-10.0 * x.abs()) > 1e3 * f32::MIN_POSITIVE, "{x}");
            let complement = erf_complement(x, exp(-x * x));
            let exact = libm::erfc(f64::from(x.abs()));
            assert!((f64::from(complement) - exact).abs() < 4e-7, "erf({x})");
        }
    }
}
