//! Registers of 128 bits, as every AArch64 CPU has them.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{QUAD, Vector, operators};

/// Four floats.
#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t);

operators!(Neon, vaddq_f32, vsubq_f32, vmulq_f32, vdupq_n_f32);

impl Vector for Neon {
    const LANES: usize = 4;
    // SAFETY: both types are four floats.
    const ZERO: Self = Self(unsafe { std::mem::transmute::<[f32; 4], float32x4_t>([0.0; 4]) });

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: the CPU has the instruction, as `Vector` requires.
        Self(unsafe { vdupq_n_f32(x) })
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the CPU has the instruction, as `Vector` requires.
        Self(unsafe { vfmaq_f32(addend.0, self.0, factor.0) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the floats.
        Self(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut x = [0.0; Self::LANES];
        for (i, x) in x.iter_mut().enumerate().take(count) {
            // SAFETY: the caller vouches for so many floats.
            *x = unsafe { *from.add(i) };
        }
        Self::of(&x)
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the places.
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut x = [0.0; Self::LANES];
        self.write(&mut x);
        for (i, x) in x.iter().enumerate().take(count) {
            // SAFETY: the caller vouches for so many places.
            unsafe { *to.add(i) = *x };
        }
    }

    #[inline(always)]
    unsafe fn load_quads(from: *const f32, _stride: usize) -> Self {
        // SAFETY: the caller vouches for the floats.
        unsafe { Self::load(from) }
    }

    #[inline(always)]
    unsafe fn load_some_quads(
        from: *const f32,
        _stride: usize,
        quads: usize,
        columns: usize,
    ) -> Self {
        // SAFETY: the caller vouches for these floats, if there is a quad.
        unsafe { Self::load_first(from, if quads == 0 { 0 } else { columns }) }
    }

    #[inline(always)]
    fn transpose_quads([a, b, c, d]: [Self; QUAD]) -> [Self; QUAD] {
        // SAFETY: the CPU has the instructions, as `Vector` requires.
        unsafe {
            let wide = |x| vreinterpretq_f64_f32(x);
            let (ab, ab_) = (wide(vtrn1q_f32(a.0, b.0)), wide(vtrn2q_f32(a.0, b.0)));
            let (cd, cd_) = (wide(vtrn1q_f32(c.0, d.0)), wide(vtrn2q_f32(c.0, d.0)));
            [
                Self(vreinterpretq_f32_f64(vtrn1q_f64(ab, cd))),
                Self(vreinterpretq_f32_f64(vtrn1q_f64(ab_, cd_))),
                Self(vreinterpretq_f32_f64(vtrn2q_f64(ab, cd))),
                Self(vreinterpretq_f32_f64(vtrn2q_f64(ab_, cd_))),
            ]
        }
    }

    #[inline(always)]
    fn prefetch(from: *const f32) {
        // SAFETY: a prefetch of any address is allowed, and changes nothing.
        unsafe {
            asm!("prfm pldl2keep, [{}]", in(reg) from, options(nostack, preserves_flags, readonly))
        }
    }

    #[inline(always)]
    fn prefetch_to_write(to: *mut f32) {
        // SAFETY: likewise.
        unsafe {
            asm!("prfm pstl1keep, [{}]", in(reg) to, options(nostack, preserves_flags, readonly))
        }
    }
}
