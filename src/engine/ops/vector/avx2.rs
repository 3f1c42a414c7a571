//! Registers of 256 bits.

use std::arch::x86_64::*;

use super::{QUAD, Vector, operators};

/// Eight floats.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

operators!(Avx2, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps, _mm256_set1_ps);

/// Eight lanes from place `8 − n` on are a mask of the first `n`.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The first `count` of eight lanes.
#[inline(always)]
fn first(count: usize) -> __m256i {
    let mask = &MASKS[Avx2::LANES - count.min(Avx2::LANES)..][..Avx2::LANES];
    // SAFETY: the slice has eight numbers, and the CPU has the instruction, as `Vector` requires.
    unsafe { _mm256_loadu_si256(mask.as_ptr().cast()) }
}

impl Vector for Avx2 {
    const LANES: usize = 8;
    // SAFETY: both types are eight floats.
    const ZERO: Self = Self(unsafe { std::mem::transmute::<[f32; 8], __m256>([0.0; 8]) });

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: the CPU has the instruction, as `Vector` requires.
        Self(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the CPU has the instruction, as `Vector` requires.
        Self(unsafe { _mm256_fmadd_ps(self.0, factor.0, addend.0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the floats.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller vouches for the floats under the mask.
        Self(unsafe { _mm256_maskload_ps(from, first(count)) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the places.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller vouches for the places under the mask.
        unsafe { _mm256_maskstore_ps(to, first(count), self.0) }
    }

    #[inline(always)]
    unsafe fn load_quads(from: *const f32, stride: usize) -> Self {
        // SAFETY: the caller vouches for the floats.
        unsafe { Self(_mm256_loadu2_m128(from.add(stride), from)) }
    }

    #[inline(always)]
    unsafe fn load_some_quads(
        from: *const f32,
        stride: usize,
        quads: usize,
        columns: usize,
    ) -> Self {
        let quad = |index: usize| {
            // SAFETY: the caller vouches for what the mask selects, and the CPU has the instructions, as `Vector`
            // requires.
            unsafe {
                if index >= quads {
                    return _mm_setzero_ps();
                }
                let mask = _mm256_castsi256_si128(first(columns));
                _mm_maskload_ps(from.wrapping_add(index * stride), mask)
            }
        };
        // SAFETY: the CPU has the instruction, as `Vector` requires.
        Self(unsafe { _mm256_set_m128(quad(1), quad(0)) })
    }

    #[inline(always)]
    fn transpose_quads([a, b, c, d]: [Self; QUAD]) -> [Self; QUAD] {
        // SAFETY: the CPU has the instructions, as `Vector` requires.
        unsafe {
            let (ab, ab_) = (_mm256_unpacklo_ps(a.0, b.0), _mm256_unpackhi_ps(a.0, b.0));
            let (cd, cd_) = (_mm256_unpacklo_ps(c.0, d.0), _mm256_unpackhi_ps(c.0, d.0));
            let (ab, ab_) = (_mm256_castps_pd(ab), _mm256_castps_pd(ab_));
            let (cd, cd_) = (_mm256_castps_pd(cd), _mm256_castps_pd(cd_));
            [
                Self(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd))),
                Self(_mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd))),
                Self(_mm256_castpd_ps(_mm256_unpacklo_pd(ab_, cd_))),
                Self(_mm256_castpd_ps(_mm256_unpackhi_pd(ab_, cd_))),
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
