//! Convolution with large filters (im2col): pixels are copied into rows in the order of the filters, which are read in
//! place.

use rayon::prelude::*;

use crate::engine::ops::buffer::filled;
use crate::engine::ops::conv::geometry::Pass;
use crate::engine::ops::gemm::{
    Epilogue, FrozenMatrix, Left, PANEL, Start, paired, par_gemm, par_gemm_rows,
};

/// Output pixels that are unfolded at once.
const PIXELS: usize = 512;
/// Floats of the gradients of unfolded rows that are in memory at once.
const GRADIENT_FLOATS: usize = 1 << 20;

/// Filters as a matrix `(out_channels, in_channels · kernel²)`.
pub(super) struct Unfolded(pub(super) FrozenMatrix);

impl Unfolded {
    /// - `pass`: from the image to the result
    pub(super) fn forward(
        &self,
        x: &[f32],
        batch: usize,
        pass: Pass,
        epilogue: Epilogue<'_>,
        y: &mut [f32],
    ) {
        let filters = self.0.forward_factor();
        let filters = filters.right();
        let (depth, width) = (filters.steps(), filters.width());
        let channels = depth / pass.area();
        let pixels = batch * pass.output.0 * pass.output.1;
        for first in (0..pixels).step_by(PIXELS) {
            let range = first..pixels.min(first + PIXELS);
            let starts = pass.starts(range.clone(), channels);
            let rows = filled(range.len() * depth, |rows| {
                rows.par_chunks_exact_mut(depth).enumerate().for_each(|(row, to)| {
                    let parts = starts.chunks_exact(range.len()).map(|part| part[row]);
                    unfold(x, parts, channels, pass.area(), to);
                });
            });
            let addend =
                epilogue.addend.map(|(values, stride)| (&values[first * stride..], stride));
            let y = &mut y[first * width..range.end * width];
            par_gemm_rows(&rows, filters, Epilogue { addend, ..epilogue }, y);
        }
    }

    /// - `pass`: from the result to the image
    pub(super) fn backward(&self, dy: &[f32], batch: usize, pass: Pass, dx: &mut [f32]) {
        let filters = self.0.backward_factor();
        let filters = filters.right();
        let (from, depth) = (filters.steps(), filters.width());
        let (area, rows) = (pass.area(), dy.len() / from);
        let channels = depth / area;
        let pixels = batch * pass.output.0 * pass.output.1;
        // A few channels at a time, of all pixels, since a pixel of the image is part of many rows.
        let some = (GRADIENT_FLOATS / (rows * area).max(1)).max(1).next_multiple_of(PANEL);
        let mut products = Vec::new();
        let dy = &*paired(dy, filters);
        for first in (0..channels).step_by(some) {
            let some = some.min(channels - first);
            let width = some * area;
            products.resize(rows * width, 0.0);
            let left = Left::rows(dy, filters.depth());
            par_gemm(
                left,
                filters.columns(first * area, width),
                Epilogue::default(),
                &mut products,
            );
            let starts = pass.starts(0..pixels, width);
            dx.par_chunks_exact_mut(channels).enumerate().for_each(|(pixel, dx)| {
                let parts = starts.chunks_exact(pixels).map(|part| part[pixel]);
                fold(&products, parts, area, &mut dx[first..first + some]);
            });
        }
    }
}

/// One row: for each channel, the pixels under all positions of the kernel.
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

/// The gradient of a pixel: the sum over all rows that it is part of, which begin at `parts`, in the reverse order of
/// positions.
fn fold(products: &[f32], parts: impl Iterator<Item = Start>, area: usize, dx: &mut [f32]) {
    dx.fill(0.0);
    for (part, start) in parts.enumerate() {
        if let Start::At(start) = start {
            let products = products[start + area - 1 - part..].iter().step_by(area);
            dx.iter_mut().zip(products).for_each(|(dx, product)| *dx += product);
        }
    }
}
