//! Convolution with frozen filters.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{Shared, applies, filled, tensor, values};
use super::product::{
    Add, FrozenPanels, Left, PANEL, Panels, Right, Start, TILE, multiply_into, multiply_rows,
};
use super::winograd::{Image, Winograd};
use super::{Precision, elsewhere};
use crate::engine::autograd::Variable;

/// Pixels of one task.
const PIXELS: usize = 128;
/// Inputs with fewer channels than this are gathered into rows before they are multiplied.
const FEW_CHANNELS: usize = 16;

/// Zeros around an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

impl Padding {
    /// The same on all four sides.
    pub const fn same(pixels: usize) -> Self {
        Self { top: pixels, bottom: pixels, left: pixels, right: pixels }
    }
}

/// A 2-D convolution whose filters take no gradient; channels are the last dimension of images.
///
/// `y[p, o] = b[o] + Σ_{k, i} W[o, i, k] x[s p + k, i]` over kernel positions `k` and input channels `i`. Its gradient
/// is a convolution again, with the filters turned by 180° and input and output channels exchanged.
///
/// On the CPU, 3×3 kernels of stride 1 go through Winograd's F(4×4, 3×3) if [`Precision::Fast`] allows it.
#[derive(Clone)]
pub struct FrozenConv2d(Arc<Filters>);

struct Filters {
    geometry: Geometry,
    in_channels: usize,
    out_channels: usize,
    place: Place,
}

/// The filters, where they are used.
enum Place {
    Cpu {
        /// `(kernel² · in_channels, out_channels)`.
        panels: FrozenPanels,
        bias: Option<Vec<f32>>,
        winograd: Option<Box<Winograd>>,
    },
    Elsewhere {
        /// `(kernel² · in_channels, out_channels)`.
        matrix: Tensor,
        bias: Option<Tensor>,
    },
}

/// Which input pixels an output pixel sees.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: Padding,
}

/// One way through the filters, from images of `input` height and width to images of `output`.
#[derive(Clone, Copy)]
struct Way {
    geometry: Geometry,
    input: (usize, usize),
    output: (usize, usize),
    /// From the gradient of the result to that of the argument.
    back: bool,
}

impl Geometry {
    pub(super) fn output(self, height: usize, width: usize) -> (usize, usize) {
        let Self { kernel, stride, padding: p } = self;
        let along = |size: usize| (size + stride).saturating_sub(kernel) / stride;
        (along(height + p.top + p.bottom), along(width + p.left + p.right))
    }
}

impl Way {
    /// The input row under each row of kernel positions (in reverse order backwards), for each output row; likewise for
    /// columns.
    fn along(self, input: usize, output: usize, padding: usize) -> Vec<Option<usize>> {
        let Geometry { kernel, stride, .. } = self.geometry;
        let source = |offset: usize, at: usize| {
            let at = match self.back {
                false => (at * stride + offset).checked_sub(padding)?,
                true => {
                    let at = (at + padding).checked_sub(kernel - 1 - offset)?;
                    if !at.is_multiple_of(stride) {
                        return None;
                    }
                    at / stride
                }
            };
            (at < input).then_some(at)
        };
        (0..kernel).flat_map(|offset| (0..output).map(move |at| source(offset, at))).collect()
    }

    /// Where each part of each of the output pixels `pixels` begins in `(batch, height, width, channels)`.
    fn starts(self, pixels: std::ops::Range<usize>, channels: usize) -> Vec<Start> {
        let Geometry { kernel, padding, .. } = self.geometry;
        let ((height, width), (rows, columns)) = (self.input, self.output);
        let (ys, xs) =
            (self.along(height, rows, padding.top), self.along(width, columns, padding.left));
        let place =
            |pixel: usize| (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        let places: Vec<_> = pixels.map(place).collect();
        let mut starts = Vec::with_capacity(kernel * kernel * places.len());
        for (ys, xs) in
            ys.chunks_exact(rows).flat_map(|ys| xs.chunks_exact(columns).map(move |xs| (ys, xs)))
        {
            starts.extend(places.iter().map(|&(image, y, x)| match (ys[y], xs[x]) {
                (Some(y), Some(x)) => Start::At(((image * height + y) * width + x) * channels),
                _ => Start::Zeros,
            }));
        }
        starts
    }
}

impl FrozenConv2d {
    /// - `weight`: `(out_channels, in_channels, kernel, kernel)`
    /// - `bias`: `(out_channels,)`
    pub fn new(
        weight: Tensor,
        bias: Option<Tensor>,
        stride: usize,
        padding: Padding,
        precision: Precision,
    ) -> Result<Self> {
        let (out_channels, in_channels, kernel, width) = weight.dims4()?;
        if kernel != width {
            bail!("a kernel of {kernel}×{width} is not square");
        }
        let geometry = Geometry { kernel, stride, padding };
        let place = if applies(&weight) {
            let bias = bias.map(|bias| bias.to_vec1()).transpose()?;
            let panels = pack(&values(&weight.contiguous()?)?, out_channels, in_channels, kernel);
            let suits = precision == Precision::Fast
                && Winograd::suits(geometry, in_channels, out_channels);
            let winograd = suits.then(|| Box::new(Winograd::new(in_channels, out_channels)));
            let panels = FrozenPanels::new(panels, kernel * kernel);
            Place::Cpu { panels, bias, winograd }
        } else {
            let matrix = weight.permute((2, 3, 1, 0))?.contiguous()?;
            Place::Elsewhere { matrix: matrix.reshape(((), out_channels))?, bias }
        };
        Ok(Self(Arc::new(Filters { geometry, in_channels, out_channels, place })))
    }

    /// `(batch, height, width, in_channels)` → `(batch, height', width', out_channels)`.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        let y = self.convolve(x.tensor(), None)?;
        let (conv, x) = (self.clone(), x);
        let size = x.tensor().dims4()?;
        Ok(Variable::derived(y, [x], move |dy, _| {
            Ok([Some(conv.convolve_back(dy, (size.1, size.2))?)])
        }))
    }

    /// [`Self::forward`] plus `other`, which has the shape of the result.
    pub fn forward_add(&self, x: &Variable, other: &Variable) -> Result<Variable> {
        let y = self.convolve(x.tensor(), Some(other.tensor()))?;
        let (conv, size) = (self.clone(), x.tensor().dims4()?);
        Ok(Variable::derived(y, [x, other], move |dy, [wanted, _]| {
            let dx = wanted.then(|| conv.convolve_back(dy, (size.1, size.2))).transpose()?;
            Ok([dx, Some(dy.clone())])
        }))
    }

    fn convolve(&self, x: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
        let Filters { geometry, in_channels, out_channels, .. } = *self.0;
        let (batch, height, width, channels) = x.dims4()?;
        if channels != in_channels {
            bail!("an image of {channels} channels under filters that take {in_channels}");
        }
        let output = geometry.output(height, width);
        let way = Way { geometry, input: (height, width), output, back: false };
        let shape = (batch, output.0, output.1, out_channels);
        let (panels, bias, winograd) = match &self.0.place {
            Place::Cpu { panels, bias, winograd } => (panels, bias.as_deref(), winograd),
            Place::Elsewhere { matrix, bias } => {
                return elsewhere::convolve(x, matrix, bias.as_ref(), geometry, add);
            }
        };
        let x = x.contiguous()?;
        let x = values(&x)?;
        let other = add.map(|other| other.contiguous()).transpose()?;
        let other = other.as_ref().map(values).transpose()?;
        let add = Add {
            per_column: bias,
            matrix: other.as_ref().map(|other| (&**other, out_channels)),
            present: false,
        };
        let y = filled(batch * output.0 * output.1 * out_channels, |y| match winograd {
            Some(winograd) if winograd.pays(height, width) => {
                let image = Image { batch, height, width };
                winograd.forward(&x, image, panels.view(), add, y);
            }
            _ => direct(&x, batch, way, Right::Panels(panels.view()), channels, add, y),
        });
        tensor(y, shape)
    }

    /// From the gradient of the result to that of an image of `(height, width)`.
    pub fn convolve_back(&self, dy: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        let Filters { geometry, in_channels, .. } = *self.0;
        let (batch, rows, columns, channels) = dy.dims4()?;
        let (panels, winograd) = match &self.0.place {
            Place::Cpu { panels, winograd, .. } => (panels, winograd),
            Place::Elsewhere { matrix, .. } => {
                return elsewhere::convolve_back(dy, matrix, geometry, (height, width));
            }
        };
        let way = Way { geometry, input: (rows, columns), output: (height, width), back: true };
        let dy = dy.contiguous()?;
        let dy = values(&dy)?;
        let dx = filled(batch * height * width * in_channels, |dx| match winograd {
            Some(winograd) if winograd.pays(height, width) => {
                let image = Image { batch, height, width };
                winograd.backward(&dy, image, panels.view(), dx);
            }
            _ => {
                direct(&dy, batch, way, panels.turned(), channels, Add::default(), dx);
            }
        });
        tensor(dx, (batch, height, width, in_channels))
    }
}

/// `(out, in, kernel, kernel)` → panels `(kernel² · in, out)`.
fn pack(weight: &[f32], out_channels: usize, in_channels: usize, kernel: usize) -> Panels {
    let area = kernel * kernel;
    Panels::filled(area * in_channels, out_channels, |index, panel| {
        let (panel, _) = panel.as_chunks_mut::<PANEL>();
        let lanes = PANEL.min(out_channels - index * PANEL);
        let filter = area * in_channels;
        let filters = &weight[index * PANEL * filter..][..lanes * filter];
        for channel in 0..in_channels {
            for position in 0..area {
                let row = &mut panel[position * in_channels + channel];
                for (value, filter) in row.iter_mut().zip(filters.chunks_exact(filter)) {
                    *value = filter[channel * area + position];
                }
                row[lanes..].fill(0.0);
            }
        }
    })
}

/// Multiplies the pixels under each kernel position, where they lie, by that position's filters.
fn direct(
    x: &[f32],
    batch: usize,
    way: Way,
    filters: Right<'_>,
    channels: usize,
    add: Add<'_>,
    y: &mut [f32],
) {
    let Geometry { kernel, stride, padding } = way.geometry;
    if kernel == 1 && stride == 1 && padding == Padding::same(0) {
        return multiply_rows(x, filters, add, y);
    }
    let (pixels, width) = (batch * way.output.0 * way.output.1, filters.width());
    let depth = kernel * kernel * channels;
    let threads = rayon::current_num_threads();
    let small = pixels * width * depth < 1 << 19 || threads == 1;
    let pixels_of_task = match filters {
        Right::Panels(_) | Right::Rows { .. } => PIXELS,
        Right::Turned { .. } => 4 * PIXELS,
    };
    let pixel_tasks = pixels.div_ceil(pixels_of_task);
    let wanted = if small { 1 } else { (4 * threads).div_ceil(pixel_tasks) };
    let columns_of_task = width.div_ceil(wanted).next_multiple_of(TILE);
    let column_tasks = width.div_ceil(columns_of_task);
    let place = Shared::new(y);
    let task = |task: usize| {
        let (first, column) =
            (task / column_tasks * pixels_of_task, task % column_tasks * columns_of_task);
        let range = first..pixels.min(first + pixels_of_task);
        let columns = column..width.min(column + columns_of_task);
        let matrix = add.matrix.map(|(values, stride)| (&values[first * stride..], stride));
        let add = Add { matrix, ..add };
        let rows = range.len();
        let starts = way.starts(range, channels);
        let y = place.at(first * width);
        // SAFETY: tasks write to different pixels or columns of `y`, all inside it.
        unsafe {
            if channels < FEW_CHANNELS {
                let gathered = gather(x, &starts, rows, channels);
                multiply_into(Left::rows(&gathered, depth), filters, add, columns, y, width);
            } else {
                let parts = Left::Parts { data: x, starts: &starts, rows, length: channels };
                multiply_into(parts, filters, add, columns, y, width);
            }
        }
    };
    let tasks = pixel_tasks * column_tasks;
    if small { (0..tasks).for_each(task) } else { (0..tasks).into_par_iter().for_each(task) }
}

/// Copies the parts of each row next to each other.
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
