//! Convolution with large filters, which are read where they lie: pixels are copied into rows as filters have them.

use rayon::prelude::*;

use crate::engine::ops::buffer::filled;
use crate::engine::ops::conv::geometry::Way;
use crate::engine::ops::gemm::{
    Add, FrozenMatrix, Left, PANEL, Start, multiply_rows, multiply_shared,
};

/// Output pixels that are unfolded at once, and numbers of the gradients of such rows.
const PIXELS: usize = 512;
const NUMBERS: usize = 1 << 20;

/// Filters as a matrix `(out_channels, in_channels · kernel²)`.
pub(super) struct Unfolded(pub(super) FrozenMatrix);

impl Unfolded {
    /// - `way`: from the image to the result
    pub(super) fn forward(&self, x: &[f32], batch: usize, way: Way, add: Add<'_>, y: &mut [f32]) {
        let filters = self.0.right();
        let (depth, width) = (filters.depth(), filters.width());
        let channels = depth / way.area();
        let pixels = batch * way.output.0 * way.output.1;
        for first in (0..pixels).step_by(PIXELS) {
            let range = first..pixels.min(first + PIXELS);
            let starts = way.starts(range.clone(), channels);
            let rows = filled(range.len() * depth, |rows| {
                rows.par_chunks_exact_mut(depth).enumerate().for_each(|(row, to)| {
                    let parts = starts.chunks_exact(range.len()).map(|part| part[row]);
                    unfold(x, parts, channels, way.area(), to);
                });
            });
            let matrix = add.matrix.map(|(values, stride)| (&values[first * stride..], stride));
            let y = &mut y[first * width..range.end * width];
            multiply_rows(&rows, filters, Add { matrix, ..add }, y);
        }
    }

    /// - `way`: from the result to the image
    pub(super) fn backward(&self, dy: &[f32], batch: usize, way: Way, dx: &mut [f32]) {
        let filters = self.0.turned();
        let (from, depth) = (filters.depth(), filters.width());
        let (area, rows) = (way.area(), dy.len() / from);
        let channels = depth / area;
        let pixels = batch * way.output.0 * way.output.1;
        // Some channels of all pixels: which rows an input pixel is part of depends on all of them.
        let some = (NUMBERS / (rows * area).max(1)).next_multiple_of(PANEL);
        let mut products = Vec::new();
        for first in (0..channels).step_by(some) {
            let some = some.min(channels - first);
            let width = some * area;
            products.resize(rows * width, 0.0);
            let left = Left::rows(dy, from);
            multiply_shared(
                left,
                filters.columns(first * area, width),
                Add::default(),
                &mut products,
            );
            let starts = way.starts(0..pixels, width);
            dx.par_chunks_exact_mut(channels).enumerate().for_each(|(pixel, dx)| {
                let parts = starts.chunks_exact(pixels).map(|part| part[pixel]);
                fold(&products, parts, area, &mut dx[first..first + some]);
            });
        }
    }
}

/// What lies under a filter: for each channel, its kernel positions one after the other.
fn unfold(
    x: &[f32],
    parts: impl Iterator<Item = Start>,
    channels: usize,
    area: usize,
    to: &mut [f32],
) {
    for (position, start) in parts.enumerate() {
        let to = to[position..].iter_mut().step_by(area);
        match start {
            Start::At(start) => to.zip(&x[start..start + channels]).for_each(|(to, x)| *to = *x),
            Start::Zeros => to.for_each(|to| *to = 0.0),
        }
    }
}

/// The sum over all filters that a pixel is under, whose rows begin at `parts` in the reverse order of positions.
fn fold(products: &[f32], parts: impl Iterator<Item = Start>, area: usize, dx: &mut [f32]) {
    dx.fill(0.0);
    for (part, start) in parts.enumerate() {
        if let Start::At(start) = start {
            let products = products[start + area - 1 - part..].iter().step_by(area);
            dx.iter_mut().zip(products).for_each(|(dx, product)| *dx += product);
        }
    }
}
