//! The sizes of each instruction set's tiles, and its compiled loops.

use super::operands::{MicroPanel, StridedRows};
use super::tile::{
    GatheredTile, Tiles, TilesInCache, compute, compute_gathered, compute_in_cache, pace,
};
use crate::engine::ops::gemm::blocking::{Blocks, MR, PANEL};
use crate::engine::ops::vector;

/// Loops that are compiled for a number of rows, a number of registers and a layout.
///
/// # Safety
/// The CPU must have the set. The rest is as for [`compute`].
pub(super) type Loops = unsafe fn(&Tiles<'_>);

/// Loops for gathered rows: those of `R` rows at place `R − 1`.
///
/// # Safety
/// The CPU must have the set. The rest is as for [`compute_gathered`].
pub(super) type GatheredLoops = [unsafe fn(&GatheredTile<'_>); MR];

/// Loops for what lies in the caches: those of `R` rows at place `R − 1`.
///
/// # Safety
/// The CPU must have the set. The rest is as for [`compute_in_cache`].
pub(super) type LoopsInCache = [unsafe fn(&TilesInCache); MR];

/// The loops of one layout: those of `R` rows at place `R − 1`.
pub(super) type LoopsByRows = [LoopsByPace; MR];

/// The loops of one number of rows.
#[derive(Clone, Copy)]
pub(super) struct LoopsByPace {
    none: Loops,
    steady: Loops,
    hasty: Loops,
}

impl LoopsByPace {
    /// Those of one [`pace`].
    #[inline(always)]
    pub(super) fn at(self, pace: usize) -> Loops {
        match pace {
            pace::NONE => self.none,
            pace::STEADY => self.steady,
            _ => self.hasty,
        }
    }
}

/// How both factors of a product are stored.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Whether the rows of the left factor are adjacent, and its depth has a stride.
    pub(super) transposed: bool,
    /// Whether the panels of the right factor are adjacent, and their rows have a stride.
    pub(super) row_major: bool,
}

impl Layout {
    pub(super) fn of(a: StridedRows, micro_panel: &MicroPanel<'_>) -> Self {
        let (transposed, row_major) = (a.depth_stride != 1, micro_panel.row_stride != PANEL);
        Self { transposed, row_major }
    }
}

/// What the kernel needs of an instruction set.
pub(super) trait Set {
    /// Floats of a register.
    const LANES: usize;
    /// Most rows of a tile, up to [`MR`].
    const ROWS: usize;
    /// Most registers of a tile's row.
    ///
    /// The rows times these registers, these registers once more and one for the left factor are all that the CPU has,
    /// or nearly so.
    const VECTORS: usize;

    /// Most steps of the depth in one block.
    fn depth(blocks: Blocks) -> usize;

    /// The loops for tiles of so many columns. There are none for more than [`Self::ROWS`] rows: others stand there.
    fn loops(layout: Layout, columns: usize) -> &'static LoopsByRows;

    /// The same for what lies in the caches, and any number of columns that fill tiles or are those of one tile.
    fn loops_in_cache(layout: Layout, columns: usize) -> &'static LoopsInCache;

    /// The same for gathered rows.
    fn gathered_loops(columns: usize) -> &'static GatheredLoops;
}

/// [`GatheredLoops`] of tiles of up to `$rows` rows by `$n` registers.
macro_rules! gathered {
    ($compiled:ident, $rows:literal by $n:literal) => {{
        const LOOPS: GatheredLoops = {
            macro_rules! of {
                ($r:literal) => {
                    if $r <= $rows { $compiled::<$r, $n> } else { $compiled::<1, $n> }
                };
            }
            [of!(1), of!(2), of!(3), of!(4), of!(5), of!(6), of!(7), of!(8)]
        };
        &LOOPS
    }};
}

/// The loops of `$compiled` for `$n` registers and a layout.
macro_rules! by_layout {
    ($compiled:ident, $n:literal, $layout:ident) => {
        match $layout {
            Layout { transposed: false, row_major: false } => &$compiled::<$n, false, false>::ALL,
            Layout { transposed: false, row_major: true } => &$compiled::<$n, false, true>::ALL,
            Layout { transposed: true, row_major: false } => &$compiled::<$n, true, false>::ALL,
            Layout { transposed: true, row_major: true } => &$compiled::<$n, true, true>::ALL,
        }
    };
}

macro_rules! set {
    ($(#[$meta:meta])* $set:ident, $rows:literal by $vectors:literal ($($fewer:literal)*), $short:literal or $long:literal, $vector:ty, $product:ty $(, $features:literal)?) => {
        $(#[$meta])*
        pub(super) struct $set;

        impl Set for $set {
            const LANES: usize = <$vector as vector::Vector>::LANES;
            const ROWS: usize = $rows;
            const VECTORS: usize = $vectors;

            fn depth(blocks: Blocks) -> usize {
                match blocks {
                    Blocks::Short => $short,
                    Blocks::Long => $long,
                }
            }

            fn loops(layout: Layout, columns: usize) -> &'static LoopsByRows {
                /// # Safety
                /// As for [`Loops`].
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled<const R: usize, const N: usize, const T: bool, const M: bool, const PACE: usize>(
                    tiles: &Tiles<'_>,
                ) {
                    // SAFETY: the caller upholds the contract, which is the same.
                    unsafe { compute::<$vector, $product, R, N, T, M, PACE>(tiles) }
                }

                struct Compiled<const N: usize, const T: bool, const M: bool>;

                impl<const N: usize, const T: bool, const M: bool> Compiled<N, T, M> {
                    /// Most strips are as high as possible; only they have loops of every pace.
                    const ALL: LoopsByRows = {
                        macro_rules! of {
                            ($r:literal) => {
                                if $r == $rows || $r == 4 {
                                    LoopsByPace {
                                        none: compiled::<$r, N, T, M, { pace::NONE }>,
                                        steady: compiled::<$r, N, T, M, { pace::STEADY }>,
                                        hasty: compiled::<$r, N, T, M, { pace::HASTY }>,
                                    }
                                } else if $r < $rows {
                                    LoopsByPace {
                                        none: compiled::<$r, N, T, M, { pace::NONE }>,
                                        steady: compiled::<$r, N, T, M, { pace::HASTY }>,
                                        hasty: compiled::<$r, N, T, M, { pace::HASTY }>,
                                    }
                                } else {
                                    let none = compiled::<1, N, T, M, { pace::NONE }>;
                                    LoopsByPace { none, steady: none, hasty: none }
                                }
                            };
                        }
                        [of!(1), of!(2), of!(3), of!(4), of!(5), of!(6), of!(7), of!(8)]
                    };
                }

                match columns.div_ceil(Self::LANES) {
                    $($fewer => by_layout!(Compiled, $fewer, layout),)*
                    _ => by_layout!(Compiled, $vectors, layout),
                }
            }

            fn loops_in_cache(layout: Layout, columns: usize) -> &'static LoopsInCache {
                /// # Safety
                /// As for [`LoopsInCache`].
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled<const R: usize, const N: usize, const T: bool, const M: bool>(
                    tiles: &TilesInCache,
                ) {
                    // SAFETY: the caller upholds the contract, which is the same.
                    unsafe { compute_in_cache::<$vector, $product, R, N, T, M>(tiles) }
                }

                struct Compiled<const N: usize, const T: bool, const M: bool>;

                impl<const N: usize, const T: bool, const M: bool> Compiled<N, T, M> {
                    const ALL: LoopsInCache = {
                        macro_rules! of {
                            ($r:literal) => {
                                if $r <= $rows { compiled::<$r, N, T, M> } else { compiled::<1, N, T, M> }
                            };
                        }
                        [of!(1), of!(2), of!(3), of!(4), of!(5), of!(6), of!(7), of!(8)]
                    };
                }

                match columns.div_ceil(Self::LANES) {
                    $($fewer => by_layout!(Compiled, $fewer, layout),)*
                    _ => by_layout!(Compiled, $vectors, layout),
                }
            }

            fn gathered_loops(columns: usize) -> &'static GatheredLoops {
                /// # Safety
                /// As for [`GatheredLoops`].
                $(#[target_feature(enable = $features)])?
                unsafe fn compiled<const R: usize, const N: usize>(tile: &GatheredTile<'_>) {
                    // SAFETY: the caller upholds the contract, which is the same.
                    unsafe { compute_gathered::<$vector, $product, R, N>(tile) }
                }

                match columns.div_ceil(Self::LANES) {
                    $($fewer => gathered!(compiled, $rows by $fewer),)*
                    _ => gathered!(compiled, $rows by $vectors),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
set!(
    /// 24 sums and 3 panels in 32 registers.
    Avx512, 8 by 3 (1 2), 192 or 768, vector::Avx512, vector::OfFloats, "avx512f,avx512dq,avx512vl,fma"
);
#[cfg(target_arch = "x86_64")]
set!(
    /// The same for pairs of bf16 numbers.
    Avx512Bf16, 8 by 3 (1 2), 192 or 192, vector::Avx512, vector::OfBf16Pairs, "avx512f,avx512dq,avx512vl,avx512bf16,fma"
);
#[cfg(target_arch = "x86_64")]
set!(
    /// 12 sums, a panel in 2 and a factor in 16 registers.
    Avx2, 6 by 2 (), 320 or 384, vector::Avx2, vector::OfFloats, "avx2,fma"
);
#[cfg(target_arch = "aarch64")]
set!(
    /// 24 sums, a panel in 4 and a factor in 32 registers.
    Neon, 6 by 4 (), 320 or 320, vector::Neon, vector::OfFloats
);
set!(
    /// 8 sums, half a panel in 2 and a factor in the 16 registers that x86-64 has at least.
    Portable, 4 by 2 (), 320 or 320, vector::Portable, vector::OfFloats
);
