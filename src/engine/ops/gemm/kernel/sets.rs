//! The sizes of each instruction set's tiles, and its compiled loops.

use super::tile::{Tile, compute};
use crate::engine::ops::vector;

/// What the kernel needs of an instruction set.
pub(super) trait Set {
    /// Floats of a register.
    const LANES: usize;
    /// Most rows of a tile, up to eight.
    const ROWS: usize;
    /// Most registers of a tile's row.
    ///
    /// The rows times these registers, these registers once more and one for the left factor are all that the CPU has,
    /// or nearly so.
    const VECTORS: usize;

    /// [`compute`], compiled for this set.
    ///
    /// # Safety
    /// The CPU must have the set. The rest is as for [`compute`].
    unsafe fn tile<
        const R: usize,
        const N: usize,
        const TRANSPOSED: bool,
        const ROW_MAJOR: bool,
        const PREFETCHES: bool,
    >(
        tile: Tile<'_>,
    );
}

macro_rules! set {
    ($(#[$meta:meta])* $set:ident, $rows:literal by $vectors:literal, $vector:ty $(, $features:literal)?) => {
        $(#[$meta])*
        pub(super) struct $set;

        impl Set for $set {
            const LANES: usize = <$vector as vector::Vector>::LANES;
            const ROWS: usize = $rows;
            const VECTORS: usize = $vectors;

            #[inline(always)]
            unsafe fn tile<const R: usize, const N: usize, const T: bool, const M: bool, const P: bool>(
                tile: Tile<'_>,
            ) {
                /// # Safety
                /// As for [`Set::tile`].
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled<const R: usize, const N: usize, const T: bool, const M: bool, const P: bool>(
                    tile: Tile<'_>,
                ) {
                    // SAFETY: the caller upholds the contract, which is the same.
                    unsafe { compute::<$vector, R, N, T, M, P>(tile) }
                }
                // SAFETY: the caller upholds the contract, which is the same.
                unsafe { compiled::<R, N, T, M, P>(tile) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
set!(
    /// 24 sums and 3 panels in 32 registers.
    Avx512, 8 by 3, vector::Avx512, "avx512f,avx512dq,avx512vl,fma"
);
#[cfg(target_arch = "x86_64")]
set!(
    /// 12 sums, a panel in 2 and a factor in 16 registers.
    Avx2, 6 by 2, vector::Avx2, "avx2,fma"
);
#[cfg(target_arch = "aarch64")]
set!(
    /// 24 sums, a panel in 4 and a factor in 32 registers.
    Neon, 6 by 4, vector::Neon
);
set!(
    /// 8 sums, half a panel in 2 and a factor in the 16 registers that x86-64 has at least.
    Portable, 4 by 2, vector::Portable
);
