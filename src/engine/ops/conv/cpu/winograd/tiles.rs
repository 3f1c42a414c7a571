//! The transforms of tiles and filters, as many channels at a time as a register holds.

#![expect(
    clippy::needless_range_loop,
    reason = "small matrices by row and column, as the formulas have them"
)]

use std::ops::Range;

use rayon::prelude::*;

use super::layout::{GAP, Image};
use super::minimal::{Minimal, WIDEST};

use crate::engine::ops::buffer::{SharedPtr, filled};
use crate::engine::ops::gemm::{Epilogue, NR, PANEL};
use crate::engine::ops::simd::in_vectors;

/// `Bᵀ d B` of some tiles: for each place, a matrix `(tiles, channels)`.
///
/// - `is_parallel`: on all threads, for callers that are not one task of many
pub(super) fn transform_tiles<M: Minimal>(
    x: &[f32],
    image: Image,
    tiles: Range<usize>,
    channels: usize,
    is_parallel: bool,
) -> Vec<f32> {
    let count = tiles.len();
    filled(M::PLACES * (count * channels + GAP), |transformed| {
        let to = SharedPtr::new(transformed);
        let task = |index: usize| {
            let tile = tiles.start + index;
            let stride = count * channels + GAP;
            // SAFETY: each tile has its own row of each place's matrix, inside the buffer.
            unsafe {
                transform_tile::<M>(x, image, tile, channels, to.at(index * channels), stride);
            }
        };
        if is_parallel {
            (0..count).into_par_iter().with_min_len(8).for_each(task);
        } else {
            (0..count).for_each(task);
        }
    })
}

in_vectors! {
    /// Transforms one tile and writes place `p` to `to + p · stride`.
    ///
    /// # Safety
    /// `channels` floats at each of these places must be valid, and nothing else may access them.
    unsafe fn transform_tile<V, M: Minimal>(x: &[f32], image: Image, tile: usize, channels: usize, to: *mut f32, stride: usize) {
        let (at, y, x_) = image.place::<M>(tile);
        let Image { height, width, .. } = image;
        // Where each pixel of the input tile begins, which is one pixel larger than the output tile on each side.
        let mut starts = [[usize::MAX; WIDEST]; WIDEST];
        for row in 0..M::IN {
            for column in 0..M::IN {
                if (1..=height).contains(&(y + row)) && (1..=width).contains(&(x_ + column)) {
                    starts[row][column] =
                        ((at * height + y + row - 1) * width + x_ + column - 1) * channels;
                }
            }
        }
        let mut half = [[V::ZERO; WIDEST]; WIDEST];
        for channel in (0..channels).step_by(V::LANES) {
            for column in 0..M::IN {
                let mut d = [V::ZERO; WIDEST];
                for row in 0..M::IN {
                    if starts[row][column] != usize::MAX {
                        d[row] = V::of(&x[starts[row][column] + channel..]);
                    }
                }
                let transformed = M::input(d);
                for row in 0..M::IN {
                    half[row][column] = transformed[row];
                }
            }
            for row in 0..M::IN {
                let transformed = M::input(half[row]);
                for column in 0..M::IN {
                    let to = to.wrapping_add((row * M::IN + column) * stride + channel);
                    // SAFETY: the caller guarantees that these channels are valid and its own.
                    unsafe { transformed[column].store(to) };
                }
            }
        }
    }
}

in_vectors! {
    /// `G g Gᵀ` of a square of filters, sixteen output channels for each of sixteen input channels.
    ///
    /// - `from`: for each input channel, nine positions, each with one float per output channel
    /// - `rotated`: by 180°, as the backward pass needs them
    pub(super) fn transform_filters<V, M: Minimal>(from: &[f32], rotated: bool, to: &mut [f32], stride: usize) {
        let mut half = [[V::ZERO; 3]; WIDEST];
        for (channel, lane) in (0..PANEL).flat_map(|channel| (0..PANEL).step_by(V::LANES).map(move |lane| (channel, lane))) {
            for column in 0..3 {
                let mut g = [V::ZERO; 3];
                for row in 0..3 {
                    let position = if rotated { 8 - (row * 3 + column) } else { row * 3 + column };
                    g[row] = V::of(&from[(channel * 9 + position) * PANEL + lane..]);
                }
                let transformed = M::filter(g);
                for row in 0..M::IN {
                    half[row][column] = transformed[row];
                }
            }
            for row in 0..M::IN {
                let transformed = M::filter(half[row]);
                for column in 0..M::IN {
                    transformed[column].write(&mut to[(row * M::IN + column) * stride + channel * PANEL + lane..]);
                }
            }
        }
    }
}

/// Stores `Aᵀ m A` of the products of some tiles as channels `column..` of the images.
///
/// # Safety
/// `to` must hold `(batch, height, width, channels)`, and nothing else may access these channels of these pixels.
pub(super) unsafe fn store_tiles<M: Minimal>(
    products: &[f32],
    image: Image,
    tiles: Range<usize>,
    channels: usize,
    column: usize,
    epilogue: Epilogue<'_>,
    to: SharedPtr,
) {
    // SAFETY: the caller upholds the contract, which is the same.
    unsafe { store::<M>(products, image, tiles, (channels, column), epilogue, to) };
}

in_vectors! {
    /// # Safety
    /// As for [`store_tiles`].
    unsafe fn store<V, M: Minimal>(products: &[f32], image: Image, tiles: Range<usize>, columns: (usize, usize), epilogue: Epilogue<'_>, to: SharedPtr) {
        let Image { height, width, .. } = image;
        let (channels, column) = columns;
        let stride = tiles.len() * NR + GAP;
        let mut half = [[V::ZERO; WIDEST]; WIDEST];
        for (index, tile) in tiles.enumerate() {
            let products = &products[index * NR..];
            let (at, y, x) = image.place::<M>(tile);
            let (rows, across) = (M::OUT.min(height - y), M::OUT.min(width - x));
            for lane in (0..NR.min(channels - column)).step_by(V::LANES) {
                for i in 0..M::IN {
                    let mut m = [V::ZERO; WIDEST];
                    for row in 0..M::IN {
                        m[row] = V::of(&products[(row * M::IN + i) * stride + lane..]);
                    }
                    let transformed = M::output(m);
                    for row in 0..M::OUT {
                        half[row][i] = transformed[row];
                    }
                }
                let bias = match epilogue.bias {
                    Some(bias) => V::of(&bias[column + lane..]),
                    None => V::ZERO,
                };
                for row in 0..M::OUT {
                    let transformed = M::output(half[row]);
                    if row >= rows {
                        break;
                    }
                    for i in 0..M::OUT {
                        if i >= across {
                            break;
                        }
                        let pixel = ((at * height + y + row) * width + x + i) * channels + column + lane;
                        let mut value = transformed[i] + bias;
                        if let Some((other, _)) = epilogue.addend {
                            value = value + V::of(&other[pixel..]);
                        }
                        // SAFETY: the pixel is inside the image, and the caller guarantees that these channels are its
                        // own.
                        unsafe { value.store(to.at(pixel)) };
                    }
                }
            }
        }
    }
}
