//! Convolution by transformed filters that are kept.

use rayon::prelude::*;

use super::filters::DirectedFilters;
use super::layout::{GAP, Image};
use super::minimal::Minimal;
use super::tiles::{Products, store_tiles, transform_tiles};
use crate::engine::ops::buffer::{SharedPtr, filled};
use crate::engine::ops::gemm::{Epilogue, Left, NR, PanelsView, Right, gemm_columns};

/// Most tiles of one task that computes all output channels.
const MAX_TILES: usize = 64;
/// Least tiles of such a task, since each reads all filters.
const MIN_TILES: usize = 16;
/// Tasks of each thread with which none waits long for the last one.
const TASKS_OF_A_THREAD: usize = 4;

/// - `transformed_filters`: all of them
pub(super) fn convolve<M: Minimal>(
    x: &[f32],
    image: Image,
    filters: DirectedFilters<'_>,
    transformed_filters: &[f32],
    epilogue: Epilogue<'_>,
    y: &mut [f32],
) {
    let (tiles, threads) = (image.tiles::<M>(), rayon::current_num_threads());
    let chunks = filters.chunks();
    let place = SharedPtr::new(y);
    // Each task has some tiles and all channels. Its transformed tiles stay in the second-level cache.
    let count =
        tiles.div_ceil(tiles.div_ceil(MAX_TILES).max(threads.min(tiles.div_ceil(MIN_TILES))));
    let tasks = tiles.div_ceil(count);
    // Few such tasks would leave threads idle, so the output channels of each are tasks of their own.
    let are_few = tasks < TASKS_OF_A_THREAD * threads;
    let task = |task: usize| {
        let range = task * count..tiles.min((task + 1) * count);
        if range.is_empty() {
            return;
        }
        let transformed = transform_tiles::<M>(x, image, range.clone(), chunks, are_few);
        let block = |block: usize| {
            let columns = block * NR..filters.to.min((block + 1) * NR);
            let transformed_filters = &transformed_filters[block * chunks.floats::<M>(NR)..];
            let data = filled(M::PLACES * (range.len() * NR + GAP), |products| {
                for chunk in chunks.iter() {
                    let (tiles, of_tiles) = chunk.places::<M>(range.len());
                    let (panels, of_panels) = chunk.places::<M>(columns.len());
                    for place in 0..M::PLACES {
                        let tiles = &transformed[tiles + place * of_tiles..];
                        let left = Left::rows(&tiles[..range.len() * chunk.depth], chunk.depth);
                        let panels = &transformed_filters[panels + place * of_panels..];
                        let panels = PanelsView::new(panels, chunk.depth, columns.len());
                        let accumulate = chunk.index > 0;
                        let epilogue = Epilogue { accumulate, ..Epilogue::default() };
                        let to = &mut products[place * (range.len() * NR + GAP)..];
                        let to = to[..range.len() * NR].as_mut_ptr();
                        // SAFETY: `to` is exclusive and has a row of `NR` floats for each tile.
                        unsafe {
                            let columns = 0..columns.len();
                            gemm_columns(left, Right::Packed(panels), epilogue, columns, to, NR);
                        }
                    }
                }
            });
            let products = Products { data: &data, width: NR, tiles: range.clone(), columns };
            // SAFETY: tasks have different tiles or channels.
            unsafe { store_tiles::<M>(products, image, filters.to, epilogue, place) };
        };
        let blocks = 0..filters.to.div_ceil(NR);
        if are_few { blocks.into_par_iter().for_each(block) } else { blocks.for_each(block) }
    };
    (0..tasks).into_par_iter().for_each(task);
}
