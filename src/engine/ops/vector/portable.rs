//! Four floats for any CPU, which the compiler puts into whatever registers there are.

use super::{QUAD, Vector};

/// Four floats.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; QUAD]);

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

impl Vector for Portable {
    const LANES: usize = QUAD;
    const ZERO: Self = Self([0.0; QUAD]);

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; QUAD])
    }

    /// Rounded twice: a CPU without the instruction would call a function for each lane.
    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * factor.0[i] + addend.0[i]))
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller vouches for the floats, and the read asks for no alignment.
        Self(unsafe { from.cast::<[f32; QUAD]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut x = Self::ZERO;
        for (i, x) in x.0.iter_mut().enumerate().take(count) {
            // SAFETY: the caller vouches for so many floats.
            *x = unsafe { *from.add(i) };
        }
        x
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller vouches for the places, and the write asks for no alignment.
        unsafe { to.cast::<[f32; QUAD]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (i, x) in self.0.iter().enumerate().take(count) {
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
    fn transpose_quads(x: [Self; QUAD]) -> [Self; QUAD] {
        std::array::from_fn(|column| Self(std::array::from_fn(|row| x[row].0[column])))
    }
}
