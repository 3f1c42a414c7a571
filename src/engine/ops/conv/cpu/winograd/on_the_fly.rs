//! Convolution by filters that are transformed right before the products that read them.
//!
//! Transformed filters have four times the size of the filters. To write and read them takes longer than to compute them,
//! unless they stay in the first-level cache. So a task has a few output channels, and transforms the filters of few input
//! channels at a time: those of one row of places, then those of the next.

use std::ops::Range;

use rayon::prelude::*;

use super::filters::DirectedFilters;
use super::layout::{Chunks, GAP, Image};
use super::minimal::Minimal;
use super::square::{FilterSquare, Square};
use super::tiles::{Products, store_tiles, transform_filter_row, transform_tiles};
use crate::engine::ops::buffer::{SharedPtr, filled};
use crate::engine::ops::gemm::{BlockKernel, BlockProducts, Epilogue, PANEL, PrefetchShares};

/// Most input channels whose filters are transformed together. Sums are cut at the same places.
const DEPTH: usize = 32;
/// Tiles of the largest image for which transforming takes so long that all of a chunk has to stay in the first-level
/// cache.
const FEW_TILES: usize = 4;
/// Filters of a chunk that does.
const FILTERS_IN_CACHE: usize = 512;
/// Most tiles that are multiplied by transformed filters before these are computed again.
const MAX_TILES: usize = 128;

pub(super) fn convolve<M: Minimal>(
    x: &[f32],
    image: Image,
    filters: DirectedFilters<'_>,
    epilogue: Epilogue<'_>,
    y: &mut [f32],
) {
    let tiles = image.tiles::<M>();
    let kernel = BlockKernel::used();
    let width = kernel.columns();
    // Not by the tiles of all images, so that an image alone has the same bytes as among others.
    let (down, across) = image.tiles_of_one::<M>();
    let depth = if down * across <= FEW_TILES { FILTERS_IN_CACHE / width } else { DEPTH };
    let chunks = Chunks::new(filters.from, depth);
    let place = SharedPtr::new(y);
    for first in (0..tiles).step_by(MAX_TILES) {
        let range = first..tiles.min(first + MAX_TILES);
        let transformed = transform_tiles::<M>(x, image, range.clone(), chunks, true);
        let task = |task: usize| {
            let columns = task * width..filters.to.min((task + 1) * width);
            let width = columns.len();
            let stride = range.len() * width + GAP;
            let data = filled(M::PLACES * stride, |products| {
                let tiles = &Tiles { transformed: &transformed, count: range.len(), chunks };
                multiply::<M>(kernel, tiles, filters, columns.clone(), products);
            });
            let products = Products { data: &data, width, tiles: range.clone(), columns };
            // SAFETY: tasks have different channels.
            unsafe { store_tiles::<M>(products, image, filters.to, epilogue, place) };
        };
        (0..filters.to.div_ceil(width)).into_par_iter().for_each(task);
    }
}

/// Transformed tiles.
struct Tiles<'a> {
    transformed: &'a [f32],
    count: usize,
    chunks: Chunks,
}

/// Multiplies tiles by the filters of some columns. The products are, for each place, `(tiles, columns)`.
fn multiply<M: Minimal>(
    kernel: BlockKernel,
    tiles: &Tiles<'_>,
    filters: DirectedFilters<'_>,
    columns: Range<usize>,
    products: &mut [f32],
) {
    let &Tiles { transformed, count, chunks } = tiles;
    let panels = columns.len() / PANEL;
    let mut buffers: Vec<FilterSquare> = Vec::new();
    buffers.resize_with(panels * chunks.depth() / PANEL, FilterSquare::default);
    let of_products = count * columns.len() + GAP;
    let mut panels_of_row = vec![0.0; M::IN * (chunks.depth() * columns.len() + GAP)];
    for chunk in chunks.iter() {
        let mut next = chunks.after(chunk).map(|next| {
            let channels = next.first..next.first + next.depth;
            filters.memory(columns.clone(), channels).in_shares(M::PLACES)
        });
        let squares_of_panel = chunk.depth / PANEL;
        let squares: Vec<Square<'_>> = buffers
            .iter_mut()
            .take(panels * squares_of_panel)
            .enumerate()
            .map(|(index, buffer)| {
                let (panel, at) = (index / squares_of_panel, index % squares_of_panel);
                filters.square(chunk.first + at * PANEL, columns.start + panel * PANEL, buffer)
            })
            .collect();
        let of_panels = chunk.depth * columns.len() + GAP;
        let (first_tiles, of_tiles) = chunk.places::<M>(count);
        for row in 0..M::IN {
            for (square, to) in squares.iter().zip((0..).step_by(PANEL * PANEL)) {
                let to = &mut panels_of_row[to..];
                transform_filter_row::<M>(*square, filters.is_backward(), row, to, of_panels);
            }
            let place = row * M::IN;
            let products_of_row = BlockProducts {
                count: M::IN,
                rows: count,
                depth: chunk.depth,
                columns: columns.len(),
                a: (&transformed[first_tiles + place * of_tiles..], of_tiles),
                panels: (&panels_of_row, of_panels),
                accumulate: chunk.index > 0,
            };
            let to = &mut products[place * of_products..];
            kernel.multiply(&products_of_row, (to, of_products), || {
                next.iter_mut().for_each(PrefetchShares::prefetch_one);
            });
        }
    }
}
