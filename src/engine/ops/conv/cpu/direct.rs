//! Convolution with small filters, without copies of the image: one product for each position of the kernel.

use std::sync::OnceLock;

use rayon::prelude::*;

use crate::engine::ops::buffer::SharedPtr;
use crate::engine::ops::conv::geometry::{Direction, Pass};
use crate::engine::ops::gemm::{
    Epilogue, Left, NR, PANEL, Panels, PanelsView, Right, Start, gemm_columns,
};
use crate::engine::ops::once::get_or_init;
use crate::engine::ops::weight::CpuWeight;

/// Pixels of one task.
const PIXELS: usize = 128;
/// Images with fewer channels than this are gathered into rows before they are multiplied.
const FEW_CHANNELS: usize = 16;

/// Filters, packed for each direction at its first use.
pub(super) struct Direct {
    /// `(out_channels, in_channels, kernel, kernel)`.
    weight: CpuWeight,
    in_channels: usize,
    out_channels: usize,
    forward: OnceLock<Panels>,
    backward: OnceLock<Panels>,
}

impl Direct {
    pub(super) fn new(weight: CpuWeight, in_channels: usize, out_channels: usize) -> Self {
        let (forward, backward) = (OnceLock::new(), OnceLock::new());
        Self { weight, in_channels, out_channels, forward, backward }
    }

    /// - `pass`: from the image to the result
    pub(super) fn forward(
        &self,
        x: &[f32],
        batch: usize,
        pass: Pass,
        epilogue: Epilogue<'_>,
        y: &mut [f32],
    ) {
        let panels = get_or_init(&self.forward, || self.pack(pass));
        convolve(x, batch, pass, panels.view(), epilogue, y);
    }

    /// - `pass`: from the result to the image
    pub(super) fn backward(&self, dy: &[f32], batch: usize, pass: Pass, dx: &mut [f32]) {
        let panels = get_or_init(&self.backward, || self.pack(pass));
        convolve(dy, batch, pass, panels.view(), Epilogue::default(), dx);
    }

    /// `(kernel² · in, out)` for the forward pass; `(kernel² · out, in)`, with the positions in reverse order, for the
    /// backward pass.
    fn pack(&self, pass: Pass) -> Panels {
        let Self { in_channels, out_channels, .. } = *self;
        let (weight, area) = (self.weight.values(), pass.area());
        let (from, to) = match pass.direction {
            Direction::Forward => (in_channels, out_channels),
            Direction::Backward => (out_channels, in_channels),
        };
        Panels::filled(area * from, to, |index, panel| {
            let lanes = PANEL.min(to - index * PANEL);
            let (rows, _) = panel.as_chunks_mut::<PANEL>();
            for (at, row) in rows.iter_mut().enumerate() {
                let (position, channel) = (at / from, at % from);
                for (lane, value) in row[..lanes].iter_mut().enumerate() {
                    let lane = index * PANEL + lane;
                    *value = match pass.direction {
                        Direction::Forward => {
                            weight[(lane * in_channels + channel) * area + position]
                        }
                        Direction::Backward => {
                            weight[(channel * in_channels + lane + 1) * area - 1 - position]
                        }
                    };
                }
                row[lanes..].fill(0.0);
            }
        })
    }
}

/// Multiplies the pixels under each position of the kernel by the filters of this position.
fn convolve(
    x: &[f32],
    batch: usize,
    pass: Pass,
    filters: PanelsView<'_>,
    epilogue: Epilogue<'_>,
    y: &mut [f32],
) {
    let (pixels, width, depth) =
        (batch * pass.output.0 * pass.output.1, filters.width, filters.depth);
    let channels = depth / pass.area();
    let filters = Right::Packed(filters);
    let threads = rayon::current_num_threads();
    let small = pixels * width * depth < 1 << 19 || threads == 1;
    let pixel_tasks = pixels.div_ceil(PIXELS);
    let wanted = if small { 1 } else { (4 * threads).div_ceil(pixel_tasks) };
    let columns_of_task = width.div_ceil(wanted).next_multiple_of(NR);
    let column_tasks = width.div_ceil(columns_of_task);
    let place = SharedPtr::new(y);
    let task = |task: usize| {
        let (first, column) = (task / column_tasks * PIXELS, task % column_tasks * columns_of_task);
        let range = first..pixels.min(first + PIXELS);
        let columns = column..width.min(column + columns_of_task);
        let addend = epilogue.addend.map(|(values, stride)| (&values[first * stride..], stride));
        let epilogue = Epilogue { addend, ..epilogue };
        let rows = range.len();
        let starts = pass.starts(range, channels);
        let y = place.at(first * width);
        // SAFETY: tasks write to disjoint pixels or columns of `y`, all inside it.
        unsafe {
            if channels < FEW_CHANNELS {
                let gathered = gather(x, &starts, rows, channels);
                gemm_columns(Left::rows(&gathered, depth), filters, epilogue, columns, y, width);
            } else {
                let parts = Left::Gathered { data: x, starts: &starts, rows, length: channels };
                gemm_columns(parts, filters, epilogue, columns, y, width);
            }
        }
    };
    let tasks = pixel_tasks * column_tasks;
    if small { (0..tasks).for_each(task) } else { (0..tasks).into_par_iter().for_each(task) }
}

/// Copies the parts of each row into one matrix without gaps.
fn gather(x: &[f32], starts: &[Start], rows: usize, channels: usize) -> Vec<f32> {
    let parts = starts.len() / rows;
    let mut gathered = vec![0.0; starts.len() * channels];
    for (row, to) in gathered.chunks_exact_mut(parts * channels).enumerate() {
        for (part, to) in to.chunks_exact_mut(channels).enumerate() {
            if let Start::At(start) = starts[part * rows + row] {
                to.copy_from_slice(&x[start..start + channels]);
            }
        }
    }
    gathered
}
