//! Registers of 512 bits.

use std::arch::x86_64::*;

use super::{Product, QUAD, Vector, operators};

/// Sixteen floats.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

operators!(Avx512, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps, _mm512_set1_ps);

/// The first `count` of sixteen lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    if count >= Avx512::LANES { !0 } else { (1 << count) - 1 }
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    // SAFETY: both types are sixteen floats.
    const ZERO: Self = Self(unsafe { std::mem::transmute::<[f32; 16], __m512>([0.0; 16]) });

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: the CPU has the instruction, as `Vector` requires.
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the CPU has the instruction, as `Vector` requires.
        Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the floats.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller vouches for the floats under the mask.
        Self(unsafe { _mm512_maskz_loadu_ps(first(count), from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the places.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller vouches for the places under the mask.
        unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
    }

    #[inline(always)]
    unsafe fn load_quads(from: *const f32, stride: usize) -> Self {
        // SAFETY: the caller vouches for the floats.
        unsafe {
            let quad = |index: usize| _mm_loadu_ps(from.add(index * stride));
            let x = _mm512_broadcast_f32x4(quad(0));
            let x = _mm512_mask_broadcast_f32x4(x, 0x00f0, quad(1));
            let x = _mm512_mask_broadcast_f32x4(x, 0x0f00, quad(2));
            Self(_mm512_mask_broadcast_f32x4(x, 0xf000, quad(3)))
        }
    }

    #[inline(always)]
    unsafe fn load_some_quads(
        from: *const f32,
        stride: usize,
        quads: usize,
        columns: usize,
    ) -> Self {
        let mut x = Self::ZERO.0;
        for index in 0..Self::LANES / QUAD {
            if index < quads {
                let mask: __mmask16 = ((1 << columns) - 1) << (index * QUAD);
                let from = from.wrapping_add(index * stride).wrapping_sub(index * QUAD);
                // SAFETY: the caller vouches for what the mask selects.
                x = unsafe { _mm512_mask_loadu_ps(x, mask, from) };
            }
        }
        Self(x)
    }

    #[inline(always)]
    fn transpose_quads([a, b, c, d]: [Self; QUAD]) -> [Self; QUAD] {
        // SAFETY: the CPU has the instructions, as `Vector` requires.
        unsafe {
            let (ab, ab_) = (_mm512_unpacklo_ps(a.0, b.0), _mm512_unpackhi_ps(a.0, b.0));
            let (cd, cd_) = (_mm512_unpacklo_ps(c.0, d.0), _mm512_unpackhi_ps(c.0, d.0));
            let (ab, ab_) = (_mm512_castps_pd(ab), _mm512_castps_pd(ab_));
            let (cd, cd_) = (_mm512_castps_pd(cd), _mm512_castps_pd(cd_));
            [
                Self(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd))),
                Self(_mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd))),
                Self(_mm512_castpd_ps(_mm512_unpacklo_pd(ab_, cd_))),
                Self(_mm512_castpd_ps(_mm512_unpackhi_pd(ab_, cd_))),
            ]
        }
    }

    #[inline(always)]
    fn prefetch(from: *const f32) {
        // SAFETY: every x86-64 CPU has the instruction, and a prefetch of any address is allowed.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.cast()) }
    }

    #[inline(always)]
    fn prefetch_to_write(to: *mut f32) {
        // SAFETY: likewise; a CPU without the instruction does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(to.cast_const().cast()) }
    }
}

/// Each float stands for a pair of bf16 numbers, the first one in its lower half; AVX512-BF16.
pub(crate) struct OfBf16Pairs;

impl Product<Avx512> for OfBf16Pairs {
    #[inline(always)]
    fn add(a: Avx512, b: Avx512, sum: Avx512) -> Avx512 {
        // SAFETY: the CPU has the instruction where this is called, as `Vector` requires; the types are 512 bits each.
        unsafe {
            let pairs = |x: Avx512| std::mem::transmute::<__m512, __m512bh>(x.0);
            Avx512(_mm512_dpbf16_ps(sum.0, pairs(a), pairs(b)))
        }
    }
}
