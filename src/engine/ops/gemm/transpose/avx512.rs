//! Transposes with AVX-512.

use std::arch::x86_64::*;

use crate::engine::ops::gemm::blocking::PANEL;

/// [`transpose`](super::transpose), four columns at a time.
///
/// Each lane of a register is loaded from a row of its own, so that only squares of four remain to be transposed within
/// the lanes.
///
/// # Safety
/// The CPU must have AVX-512F, and each of the `rows` must be readable for as many floats as `to` has rows.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose_avx512(
    from: *const f32,
    stride: usize,
    rows: usize,
    to: &mut [[f32; PANEL]],
) {
    for (at, to) in to.chunks_mut(LANE).enumerate() {
        let from = from.wrapping_add(at * LANE);
        // SAFETY: these columns are readable in all rows, as the caller vouches.
        let x = unsafe {
            match (to.len(), rows) {
                (LANE, PANEL) => std::array::from_fn(|i| lanes(from.add(i * stride), stride)),
                (columns, _) => std::array::from_fn(|i| {
                    some_lanes(from.wrapping_add(i * stride), stride, rows, i, columns)
                }),
            }
        };
        let x = transpose_lanes(x);
        // SAFETY: each row has sixteen places.
        let store = |to: &mut [f32; PANEL], x| unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) };
        if let [a, b, c, d] = to {
            store(a, x[0]);
            store(b, x[1]);
            store(c, x[2]);
            store(d, x[3]);
        } else {
            to.iter_mut().enumerate().for_each(|(i, to)| store(to, x[i]));
        }
    }
}

/// Floats of a lane of 128 bits, within which shuffles are cheap.
const LANE: usize = 4;

/// Four floats of every fourth row, one row per lane.
///
/// # Safety
/// The CPU must have AVX-512F, and the floats must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn lanes(from: *const f32, stride: usize) -> __m512 {
    // SAFETY: the caller vouches that the floats are readable.
    unsafe {
        let row = |index: usize| _mm_loadu_ps(from.add(index * LANE * stride));
        let x = _mm512_broadcast_f32x4(row(0));
        let x = _mm512_mask_broadcast_f32x4(x, 0x00f0, row(1));
        let x = _mm512_mask_broadcast_f32x4(x, 0x0f00, row(2));
        _mm512_mask_broadcast_f32x4(x, 0xf000, row(3))
    }
}

/// [`lanes`] of up to four columns, for those of every fourth row from `first` on that exist. The rest is zero.
///
/// # Safety
/// The CPU must have AVX-512F, and the floats must be readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn some_lanes(
    from: *const f32,
    stride: usize,
    rows: usize,
    first: usize,
    columns: usize,
) -> __m512 {
    let mut x = _mm512_setzero_ps();
    for index in 0..PANEL / LANE {
        if first + index * LANE < rows {
            let mask: __mmask16 = ((1 << columns) - 1) << (index * LANE);
            let from = from.wrapping_add(index * LANE * stride).wrapping_sub(index * LANE);
            // SAFETY: what the mask selects is readable, as the caller vouches.
            x = unsafe { _mm512_mask_loadu_ps(x, mask, from) };
        }
    }
    x
}

/// Transposes the four by four floats of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_lanes([a, b, c, d]: [__m512; LANE]) -> [__m512; LANE] {
    let (ab, ab_) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (cd, cd_) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let [ab, ab_, cd, cd_] = [ab, ab_, cd, cd_].map(|x| _mm512_castps_pd(x));
    let transposed = [
        _mm512_unpacklo_pd(ab, cd),
        _mm512_unpackhi_pd(ab, cd),
        _mm512_unpacklo_pd(ab_, cd_),
        _mm512_unpackhi_pd(ab_, cd_),
    ];
    transposed.map(|x| _mm512_castpd_ps(x))
}
