//! The transforms of tiles and filters, as many channels at a time as a register holds.

#![expect(
    clippy::needless_range_loop,
    reason = "small matrices by row and column, as the formulas have them"
)]

use std::ops::Range;

use rayon::prelude::*;

use super::layout::{Chunks, GAP, Image};
use super::minimal::{Minimal, WIDEST};
use super::square::Square;
use crate::engine::ops::buffer::{SharedPtr, filled};
use crate::engine::ops::gemm::{Epilogue, PANEL};
use crate::engine::ops::simd::in_vectors;

/// Least channels, of all tiles together, that one task transforms.
const TASK_CHANNELS: usize = 512;

/// `Bᵀ d B` of some tiles, in the order that [`Chunks`] describes.
///
/// - `is_parallel`: on all threads, for callers that are not one task of many
pub(super) fn transform_tiles<M: Minimal>(
    x: &[f32],
    image: Image,
    tiles: Range<usize>,
    chunks: Chunks,
    is_parallel: bool,
) -> Vec<f32> {
    let count = tiles.len();
    filled(chunks.floats::<M>(count), |transformed| {
        let to = SharedPtr::new(transformed);
        let task = |index: usize| {
            // SAFETY: each tile has its own row of each matrix, inside the buffer.
            unsafe {
                transform_tile::<M>(x, image, tiles.start + index, chunks, to, (index, count));
            }
        };
        if is_parallel {
            let least = TASK_CHANNELS.div_ceil(chunks.channels());
            (0..count).into_par_iter().with_min_len(least).for_each(task);
        } else {
            (0..count).for_each(task);
        }
    })
}

in_vectors! {
    /// Transforms one tile.
    ///
    /// - `row`: its row in the matrices, and how many there are
    ///
    /// # Safety
    /// `to` must be valid for so many transformed tiles, and nothing else may access these rows.
    unsafe fn transform_tile<V, M: Minimal>(x: &[f32], image: Image, tile: usize, chunks: Chunks, to: SharedPtr, row: (usize, usize)) {
        let ((index, count), channels) = (row, chunks.channels());
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
        for chunk in 0..chunks.count() {
            let chunk = chunks.get(chunk);
            let (start, stride) = chunk.places::<M>(count);
            let start = start + index * chunk.depth;
            for at in (0..chunk.depth).step_by(V::LANES) {
                for column in 0..M::IN {
                    let mut d = [V::ZERO; WIDEST];
                    for row in 0..M::IN {
                        if starts[row][column] != usize::MAX {
                            d[row] = V::of(&x[starts[row][column] + chunk.first + at..]);
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
                        let place = row * M::IN + column;
                        // SAFETY: the caller guarantees that these channels are valid and its own.
                        unsafe { transformed[column].store(to.at(start + place * stride + at)) };
                    }
                }
            }
        }
    }
}

in_vectors! {
    /// `G g Gᵀ` of a square of filters, sixteen output channels for each of sixteen input channels.
    ///
    /// - `rotated`: by 180°, as the backward pass needs them
    pub(super) fn transform_filters<V, M: Minimal>(from: Square<'_>, rotated: bool, to: &mut [f32], stride: usize) {
        let mut half = [[V::ZERO; 3]; WIDEST];
        for (channel, lane) in (0..PANEL).flat_map(|channel| (0..PANEL).step_by(V::LANES).map(move |lane| (channel, lane))) {
            for column in 0..3 {
                let mut g = [V::ZERO; 3];
                for row in 0..3 {
                    let position = if rotated { 8 - (row * 3 + column) } else { row * 3 + column };
                    // SAFETY: the place has a float for each of sixteen lanes.
                    g[row] = unsafe { V::load(from.at(channel, position).add(lane)) };
                }
                let transformed = M::filter::<V, false>(g);
                for row in 0..M::IN {
                    half[row][column] = transformed[row];
                }
            }
            for row in 0..M::IN {
                let transformed = M::filter::<V, false>(half[row]);
                for column in 0..M::IN {
                    transformed[column].write(&mut to[(row * M::IN + column) * stride + channel * PANEL + lane..]);
                }
            }
        }
    }
}

in_vectors! {
    /// Row `row` of the places of [`transform_filters`].
    ///
    /// - `to`: for each place, `stride` apart, one float per input and output channel
    pub(super) fn transform_filter_row<V, M: Minimal>(from: Square<'_>, rotated: bool, row: usize, to: &mut [f32], stride: usize) {
        assert!(to.len() >= (M::IN - 1) * stride + PANEL * PANEL, "the places do not fit");
        let [a, b, c] = M::FILTER[row];
        for channel in 0..PANEL {
            for lane in (0..PANEL).step_by(V::LANES) {
                let mut half = [V::ZERO; 3];
                for column in 0..3 {
                    let mut g = [V::ZERO; 3];
                    for row in 0..3 {
                        let position = if rotated { 8 - (row * 3 + column) } else { row * 3 + column };
                        // SAFETY: the place has a float for each of sixteen lanes.
                        g[row] = unsafe { V::load(from.at(channel, position).add(lane)) };
                    }
                    half[column] = g[1].mul_add(V::splat(b), g[2].mul_add(V::splat(c), g[0] * a));
                }
                let transformed = M::filter::<V, true>(half);
                for column in 0..M::IN {
                    let to = to.as_mut_ptr().wrapping_add(column * stride + channel * PANEL + lane);
                    // SAFETY: the assertion bounds every write.
                    unsafe { transformed[column].store(to) };
                }
            }
        }
    }
}

/// The products of some tiles for some output channels: for each place, `(tiles, width)`.
#[derive(Clone)]
pub(super) struct Products<'a> {
    pub(super) data: &'a [f32],
    pub(super) width: usize,
    pub(super) tiles: Range<usize>,
    /// Output channels, at most `width`.
    pub(super) columns: Range<usize>,
}

in_vectors! {
    /// Stores `Aᵀ m A` of products in images of `channels` channels.
    ///
    /// # Safety
    /// `to` must hold `(batch, height, width, channels)`, and nothing else may access these channels of these pixels.
    pub(super) unsafe fn store_tiles<V, M: Minimal>(products: Products<'_>, image: Image, channels: usize, epilogue: Epilogue<'_>, to: SharedPtr) {
        let Products { data, width: of_tile, tiles, columns } = products;
        let column = columns.start;
        let Image { height, width, .. } = image;
        let stride = tiles.len() * of_tile + GAP;
        let mut half = [[V::ZERO; WIDEST]; WIDEST];
        for (index, tile) in tiles.enumerate() {
            let products = &data[index * of_tile..];
            let (at, y, x) = image.place::<M>(tile);
            let (rows, across) = (M::OUT.min(height - y), M::OUT.min(width - x));
            for lane in (0..columns.len()).step_by(V::LANES) {
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
