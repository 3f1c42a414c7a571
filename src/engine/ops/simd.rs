//! Functions compiled once for each instruction set, of which the best is chosen at run time.

/// Compiles a function once for each instruction set and calls the best at run time.
///
/// The body is ordinary Rust, which the compiler vectorises for each of them. The function may be unsafe.
macro_rules! vectorized {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($function:tt)*) => {
        $crate::engine::ops::simd::vectorized! { @ [unsafe] $(#[$meta])* $vis fn $($function)* }
    };
    ($(#[$meta:meta])* $vis:vis fn $($function:tt)*) => {
        $crate::engine::ops::simd::vectorized! { @ [] $(#[$meta])* $vis fn $($function)* }
    };
    (@ [$($unsafe:tt)?] $(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        $vis $($unsafe)? fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            $($unsafe)? fn body($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            {
                // SAFETY: of an unsafe function, the caller upholds its contract.
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,fma")]
                $($unsafe)? fn avx512($($arg: $type),*) $(-> $out)? { $($unsafe)? { body($($arg),*) } }
                // SAFETY: likewise.
                #[target_feature(enable = "avx2,fma")]
                $($unsafe)? fn avx2($($arg: $type),*) $(-> $out)? { $($unsafe)? { body($($arg),*) } }
                let has_fma = std::arch::is_x86_feature_detected!("fma");
                if has_fma
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the features were detected.
                    return unsafe { avx512($($arg),*) };
                }
                if has_fma && std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the features were detected.
                    return unsafe { avx2($($arg),*) };
                }
            }
            // SAFETY: of an unsafe function, the caller upholds its contract.
            $($unsafe)? { body($($arg),*) }
        }
    };
}
pub(crate) use vectorized;

/// Sixteen floats in the lanes of one register, for code that the compiler does not vectorise by itself.
pub(crate) trait Lanes:
    Copy
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<f32, Output = Self>
{
    const ZERO: Self;

    /// Loads the first sixteen floats of `from`.
    fn load(from: &[f32]) -> Self;

    /// Stores into the first sixteen floats of `to`.
    fn store(self, to: &mut [f32]);
}

/// [`Lanes`] for any CPU, as an array.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 16]);

macro_rules! elementwise {
    ($name:ident, $method:ident, $op:tt) => {
        impl std::ops::$name for Portable {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Self(std::array::from_fn(|i| self.0[i] $op other.0[i]))
            }
        }
    };
}
elementwise!(Add, add, +);
elementwise!(Sub, sub, -);

impl std::ops::Mul<f32> for Portable {
    type Output = Self;

    #[inline(always)]
    fn mul(self, factor: f32) -> Self {
        Self(self.0.map(|x| x * factor))
    }
}

impl Lanes for Portable {
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

/// [`Lanes`] of one register. Only functions that are compiled for AVX-512, and called where it was detected, use it.
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    impl std::ops::Add for Avx512 {
        type Output = Self;

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: AVX-512 was detected, as the module requires.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }
    }

    impl std::ops::Sub for Avx512 {
        type Output = Self;

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: AVX-512 was detected, as the module requires.
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }
    }

    impl std::ops::Mul<f32> for Avx512 {
        type Output = Self;

        #[inline(always)]
        fn mul(self, factor: f32) -> Self {
            // SAFETY: AVX-512 was detected, as the module requires.
            Self(unsafe { _mm512_mul_ps(self.0, _mm512_set1_ps(factor)) })
        }
    }

    impl Lanes for Avx512 {
        // SAFETY: both types are sixteen floats.
        const ZERO: Self = Self(unsafe { std::mem::transmute::<[f32; 16], __m512>([0.0; 16]) });

        #[inline(always)]
        fn load(from: &[f32]) -> Self {
            let from = &from[..16];
            // SAFETY: the slice has sixteen floats, and AVX-512 was detected, as the module requires.
            Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, to: &mut [f32]) {
            let to = &mut to[..16];
            // SAFETY: the slice has sixteen floats, and AVX-512 was detected, as the module requires.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) };
        }
    }
}

/// [`vectorized!`] for functions that are generic over [`Lanes`] and over one more type.
macro_rules! in_lanes {
    ($(#[$meta:meta])* $vis:vis unsafe fn $($function:tt)*) => {
        $crate::engine::ops::simd::in_lanes! { @ [unsafe] $(#[$meta])* $vis fn $($function)* }
    };
    ($(#[$meta:meta])* $vis:vis fn $($function:tt)*) => {
        $crate::engine::ops::simd::in_lanes! { @ [] $(#[$meta])* $vis fn $($function)* }
    };
    (@ [$($unsafe:tt)?] $(#[$meta:meta])* $vis:vis fn $name:ident<$lanes:ident, $other:ident: $bound:ident>($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$meta])*
        $vis $($unsafe)? fn $name<$other: $bound>($($arg: $type),*) {
            #[inline(always)]
            $($unsafe)? fn body<$lanes: $crate::engine::ops::simd::Lanes, $other: $bound>($($arg: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::engine::ops::simd::{Portable, x86::Avx512};
                // SAFETY: of an unsafe function, the caller upholds its contract.
                #[target_feature(enable = "avx512f")]
                $($unsafe)? fn avx512<$other: $bound>($($arg: $type),*) { $($unsafe)? { body::<Avx512, $other>($($arg),*) } }
                // SAFETY: likewise.
                #[target_feature(enable = "avx2,fma")]
                $($unsafe)? fn avx2<$other: $bound>($($arg: $type),*) { $($unsafe)? { body::<Portable, $other>($($arg),*) } }
                if std::arch::is_x86_feature_detected!("avx512f") {
                    // SAFETY: the feature was detected.
                    return unsafe { avx512::<$other>($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the feature was detected.
                    return unsafe { avx2::<$other>($($arg),*) };
                }
            }
            // SAFETY: of an unsafe function, the caller upholds its contract.
            $($unsafe)? { body::<$crate::engine::ops::simd::Portable, $other>($($arg),*) }
        }
    };
}
pub(crate) use in_lanes;
