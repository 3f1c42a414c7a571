//! Floats in the lanes of a register: one small interface to each instruction set, which the kernels are written in.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(crate) use self::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use self::avx512::{Avx512, OfBf16Pairs};
#[cfg(target_arch = "aarch64")]
pub(crate) use self::neon::Neon;
pub(crate) use self::portable::Portable;

use super::math::reduce_lanes;

/// Floats of a part of a register within which shuffles are cheap.
pub(crate) const QUAD: usize = 4;

/// The floats in the lanes of one register.
///
/// Only functions that are compiled for the instruction set of an implementation, and called where it was detected, use
/// that implementation. All methods are inlined into them.
pub(crate) trait Vector:
    Copy
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<f32, Output = Self>
{
    /// Floats of a register, a multiple of [`QUAD`] that divides [`PANEL`](super::gemm::PANEL).
    const LANES: usize;
    const ZERO: Self;

    /// `x` in every lane.
    fn splat(x: f32) -> Self;

    /// `self · factor + addend`, rounded once where the CPU does so.
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// # Safety
    /// [`Self::LANES`] floats must be readable.
    unsafe fn load(from: *const f32) -> Self;

    /// The first `count` floats, at most [`Self::LANES`], and zeros beyond them.
    ///
    /// # Safety
    /// `count` floats must be readable.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;

    /// # Safety
    /// [`Self::LANES`] floats must be writable.
    unsafe fn store(self, to: *mut f32);

    /// Stores the first `count` lanes, at most [`Self::LANES`].
    ///
    /// # Safety
    /// `count` floats must be writable.
    unsafe fn store_first(self, to: *mut f32, count: usize);

    /// Quad `q` holds four floats from `from + q · stride` on.
    ///
    /// # Safety
    /// These floats must be readable.
    unsafe fn load_quads(from: *const f32, stride: usize) -> Self;

    /// The same for the first `quads` quads and their first `columns` floats. The rest is zero.
    ///
    /// # Safety
    /// These floats must be readable.
    unsafe fn load_some_quads(
        from: *const f32,
        stride: usize,
        quads: usize,
        columns: usize,
    ) -> Self;

    /// Transposes the four by four floats that four registers have in each quad.
    fn transpose_quads(x: [Self; QUAD]) -> [Self; QUAD];

    /// Has the line of `from` brought into the second-level cache. Any address will do.
    #[inline(always)]
    fn prefetch(from: *const f32) {
        let _ = from;
    }

    /// Has the line of `to` brought into the first-level cache, to be written. Any address will do.
    #[inline(always)]
    fn prefetch_to_write(to: *mut f32) {
        let _ = to;
    }

    /// The sum of all lanes.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = [0.0; 16];
        // SAFETY: no register has more lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        reduce_lanes(lanes, |a, b| a + b)
    }

    /// The first [`Self::LANES`] floats of a slice.
    #[inline(always)]
    fn of(from: &[f32]) -> Self {
        let from = &from[..Self::LANES];
        // SAFETY: the slice has these floats.
        unsafe { Self::load(from.as_ptr()) }
    }

    /// Writes the first [`Self::LANES`] floats of a slice.
    #[inline(always)]
    fn write(self, to: &mut [f32]) {
        let to = &mut to[..Self::LANES];
        // SAFETY: the slice has these places.
        unsafe { self.store(to.as_mut_ptr()) }
    }
}

/// The step of a sum of products: what the floats of both factors stand for.
pub(crate) trait Product<V> {
    /// `sum` plus the products of the numbers in each lane.
    fn add(a: V, b: V, sum: V) -> V;
}

/// Each float is a number.
pub(crate) struct OfFloats;

impl<V: Vector> Product<V> for OfFloats {
    #[inline(always)]
    fn add(a: V, b: V, sum: V) -> V {
        a.mul_add(b, sum)
    }
}

/// Implements the operators that [`Vector`] asks for by three functions of two registers and one that fills a register.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! operators {
    ($vector:ident, $add:ident, $sub:ident, $mul:ident, $splat:ident) => {
        impl std::ops::Add for $vector {
            type Output = Self;

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: the CPU has the instruction, as `Vector` requires.
                Self(unsafe { $add(self.0, other.0) })
            }
        }

        impl std::ops::Sub for $vector {
            type Output = Self;

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: the CPU has the instruction, as `Vector` requires.
                Self(unsafe { $sub(self.0, other.0) })
            }
        }

        impl std::ops::Mul<f32> for $vector {
            type Output = Self;

            #[inline(always)]
            fn mul(self, factor: f32) -> Self {
                // SAFETY: the CPU has the instructions, as `Vector` requires.
                Self(unsafe { $mul(self.0, $splat(factor)) })
            }
        }
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use operators;
