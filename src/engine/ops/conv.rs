//! Convolution with frozen filters.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu::{Shared, applies, filled, values};
use super::product::{Add, Left, PANEL, Panels, multiply_into};

/// Output pixels of one task: enough for a product that keeps the filters busy, few enough to share out an image.
const PIXELS: usize = 256;
/// Filters of one task, where an image alone has too few pixels to share out.
const FILTERS: usize = 64;

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

/// A 2-D convolution whose filters take no gradient.
///
/// `y[o, p] = b[o] + Σ_{i, k} W[o, i, k] x[i, s p + k]` over input channels `i` and kernel positions `k`. Its gradient
/// is a convolution again, with the filters turned by 180° and input and output channels exchanged; a stride becomes
/// zeros between the rows and columns of the incoming gradient.
#[derive(Clone)]
pub struct FrozenConv2d(std::sync::Arc<Filters>);

struct Filters {
    /// `(out_channels, in_channels, kernel, kernel)`.
    weight: Tensor,
    bias: Option<Tensor>,
    bias_values: Vec<f32>,
    kernel: usize,
    stride: usize,
    padding: Padding,
    /// Rows `(out_channels, in_channels · kernel²)` as they lie in the checkpoint, for the CPU.
    rows: OnceLock<Vec<f32>>,
    /// The same for the gradient: `(in_channels, out_channels · kernel²)`, turned.
    turned: OnceLock<Vec<f32>>,
}

impl FrozenConv2d {
    /// - `weight`: `(out_channels, in_channels, kernel, kernel)`
    /// - `bias`: `(out_channels,)`
    pub fn new(
        weight: Tensor,
        bias: Option<Tensor>,
        stride: usize,
        padding: Padding,
    ) -> Result<Self> {
        let (out_channels, _, kernel, width) = weight.dims4()?;
        if kernel != width {
            bail!("a kernel of {kernel}×{width} is not square");
        }
        let bias_values = match &bias {
            Some(bias) if applies(bias) => bias.to_vec1()?,
            Some(_) | None => vec![0.0; out_channels],
        };
        let (rows, turned) = (OnceLock::new(), OnceLock::new());
        Ok(Self(std::sync::Arc::new(Filters {
            weight,
            bias,
            bias_values,
            kernel,
            stride,
            padding,
            rows,
            turned,
        })))
    }

    /// `(batch, in_channels, height, width)` → `(batch, out_channels, height', width')`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if applies(x) {
            return x.contiguous()?.apply_op1(Convolve(self.clone()));
        }
        let Filters { weight, bias, stride, padding: p, .. } = &*self.0;
        let x = x.pad_with_zeros(2, p.top, p.bottom)?.pad_with_zeros(3, p.left, p.right)?;
        let y = x.conv2d(weight, 0, *stride, 1, 1)?;
        match bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
            None => Ok(y),
        }
    }
}

impl Filters {
    fn rows(&self) -> Result<&[f32]> {
        if self.rows.get().is_none() {
            let _ = self.rows.set(self.weight.flatten_all()?.to_vec1()?);
        }
        Ok(self.rows.get().map_or(&[], Vec::as_slice))
    }

    fn turned(&self) -> Result<&[f32]> {
        if self.turned.get().is_none() {
            let (o, i, k, _) = self.weight.dims4()?;
            let (rows, area) = (self.rows()?, k * k);
            let mut turned = vec![0.0; rows.len()];
            for out in 0..o {
                for input in 0..i {
                    for position in 0..area {
                        turned[(input * o + out) * area + area - 1 - position] =
                            rows[(out * i + input) * area + position];
                    }
                }
            }
            let _ = self.turned.set(turned);
        }
        Ok(self.turned.get().map_or(&[], Vec::as_slice))
    }
}

/// The convolution on candle's tape.
struct Convolve(FrozenConv2d);

impl CustomOp1 for Convolve {
    fn name(&self) -> &'static str {
        "frozen-conv2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let filters = &*self.0.0;
        let (batch, in_channels, height, width) = layout.shape().dims4()?;
        let (out_channels, expected, _, _) = filters.weight.dims4()?;
        if in_channels != expected {
            bail!("an image of {in_channels} channels under filters of {expected}");
        }
        let frame = Frame {
            channels: in_channels,
            height,
            width,
            between: 1,
            padding: filters.padding,
            kernel: filters.kernel,
            stride: filters.stride,
        };
        let (rows, columns) = frame.output();
        let y = convolve(
            values(storage, layout)?,
            batch,
            &frame,
            filters.rows()?,
            Some(&filters.bias_values),
            out_channels,
        );
        Ok((CpuStorage::F32(y), (batch, out_channels, rows, columns).into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, height, width) = x.dims4()?;
        Ok(Some(gradient.contiguous()?.apply_op1_no_bwd(&ConvolveBack {
            conv: self.0.clone(),
            height,
            width,
        })?))
    }
}

/// The gradient with respect to an input of `height × width`.
struct ConvolveBack {
    conv: FrozenConv2d,
    height: usize,
    width: usize,
}

impl CustomOp1 for ConvolveBack {
    fn name(&self) -> &'static str {
        "frozen-conv2d-back"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let filters = &*self.conv.0;
        let (batch, out_channels, rows, columns) = layout.shape().dims4()?;
        let (_, in_channels, kernel, _) = filters.weight.dims4()?;
        let (stride, p) = (filters.stride, filters.padding);
        let spread = |n: usize| (n - 1) * stride + 1;
        let (top, left) = (kernel - 1 - p.top, kernel - 1 - p.left);
        let frame = Frame {
            channels: out_channels,
            height: rows,
            width: columns,
            between: stride,
            padding: Padding {
                top,
                bottom: self.height + kernel - 1 - top - spread(rows),
                left,
                right: self.width + kernel - 1 - left - spread(columns),
            },
            kernel,
            stride: 1,
        };
        let dx =
            convolve(values(storage, layout)?, batch, &frame, filters.turned()?, None, in_channels);
        Ok((CpuStorage::F32(dx), (batch, in_channels, self.height, self.width).into()))
    }
}

/// How a kernel moves over an image.
struct Frame {
    channels: usize,
    height: usize,
    width: usize,
    /// Distance of the image's pixels in the padded one: 1, or a stride that is taken back.
    between: usize,
    padding: Padding,
    kernel: usize,
    stride: usize,
}

impl Frame {
    /// Height and width with padding.
    fn padded(&self) -> (usize, usize) {
        let p = self.padding;
        let spread = |n: usize| (n - 1) * self.between + 1;
        (spread(self.height) + p.top + p.bottom, spread(self.width) + p.left + p.right)
    }

    fn output(&self) -> (usize, usize) {
        let (height, width) = self.padded();
        ((height - self.kernel) / self.stride + 1, (width - self.kernel) / self.stride + 1)
    }

    /// Whether output pixels are the input's own.
    fn is_pointwise(&self) -> bool {
        self.kernel == 1
            && self.stride == 1
            && self.between == 1
            && self.padding == Padding::same(0)
    }
}

/// All images under all filters, `(batch, filters, pixels)`: a product for each tile of each image.
fn convolve(
    x: &[f32],
    batch: usize,
    frame: &Frame,
    filters: &[f32],
    bias: Option<&[f32]>,
    count: usize,
) -> Vec<f32> {
    let (height, width) = frame.output();
    let pixels = height * width;
    let image = frame.channels * frame.height * frame.width;
    let depth = frame.channels * frame.kernel * frame.kernel;
    let tiles = pixels.div_ceil(PIXELS);
    // Filters are shared out only where an image is a single small tile: each part gathers the pixels anew.
    let parts = if tiles == 1 && count >= 4 * FILTERS { count.div_ceil(FILTERS * 4) } else { 1 };
    let per_part = count.div_ceil(parts);
    let task = |index: usize, out: Shared| {
        let (part, rest) = (index % parts, index / parts);
        let (tile, row) = (rest % tiles, rest / tiles);
        let first = tile * PIXELS;
        let width_of_tile = PIXELS.min(pixels - first);
        let x = &x[row * image..(row + 1) * image];
        let panels = if frame.is_pointwise() {
            Panels::from_rows(&x[first..], pixels, depth, width_of_tile)
        } else {
            gather(x, frame, first, width_of_tile)
        };
        let from = part * per_part;
        let rows = per_part.min(count - from);
        let left =
            Left { data: &filters[from * depth..], rows, row_stride: depth, depth_stride: 1 };
        let add = bias.map_or(Add::Nothing, |bias| Add::PerRow(&bias[from..]));
        let place = (row * count + from) * pixels + first;
        // SAFETY: each task has rows and columns of `y` to itself, and they lie inside it.
        unsafe { multiply_into(left, &panels, add, out.at(place), pixels) };
    };
    let tasks = batch * tiles * parts;
    let is_small = batch * pixels * count * depth < 200_000;
    filled(batch * count * pixels, |y| {
        let out = Shared::new(y);
        if is_small {
            (0..tasks).for_each(|index| task(index, out));
        } else {
            (0..tasks).into_par_iter().for_each(|index| task(index, out));
        }
    })
}

/// Copies a row's part of a panel: small images have rows of 4 and 8, which are no work for a call.
#[inline(always)]
fn copy_run(from: &[f32], to: &mut [f32]) {
    match from.len() {
        4 => to[..4].copy_from_slice(&from[..4]),
        8 => to[..8].copy_from_slice(&from[..8]),
        _ => to.copy_from_slice(from),
    }
}

/// The pixels under the kernel for output pixels `first..first + count`, as panels of depth `channels · kernel²`.
fn gather(x: &[f32], frame: &Frame, first: usize, count: usize) -> Panels {
    let Frame { channels, height, width, between, padding, kernel, stride } = *frame;
    let (_, out_width) = frame.output();
    let (_, padded_width) = frame.padded();
    // Only the rows that these pixels see are padded out.
    let first_row = first / out_width * stride;
    let last_row = (first + count - 1) / out_width * stride + kernel;
    let band = (last_row - first_row) * padded_width;
    let mut padded = vec![0.0; channels * band];
    for channel in 0..channels {
        for row in first_row..last_row {
            let Some(from) = row.checked_sub(padding.top).filter(|from| from % between == 0) else {
                continue;
            };
            let from = from / between;
            if from >= height {
                continue;
            }
            let source = &x[(channel * height + from) * width..][..width];
            let start = channel * band + (row - first_row) * padded_width + padding.left;
            if between == 1 {
                padded[start..start + width].copy_from_slice(source);
            } else {
                for (column, &value) in source.iter().enumerate() {
                    padded[start + column * between] = value;
                }
            }
        }
    }

    Panels::filled(channels * kernel * kernel, count, |panel, to| {
        let lanes = PANEL.min(count - panel * PANEL);
        // Where each lane's kernel begins, and runs of lanes that lie side by side.
        let mut runs: Vec<(usize, usize, usize)> = Vec::with_capacity(4);
        for lane in 0..lanes {
            let pixel = first + panel * PANEL + lane;
            let place = (pixel / out_width * stride - first_row) * padded_width
                + pixel % out_width * stride;
            match runs.last_mut() {
                Some((start, from, length))
                    if stride == 1 && *from + *length == place && *start + *length == lane =>
                {
                    *length += 1;
                }
                Some(_) | None => runs.push((lane, place, 1)),
            }
        }
        if lanes < PANEL {
            to.fill(0.0);
        }
        let mut k = 0;
        for channel in 0..channels {
            for ky in 0..kernel {
                for kx in 0..kernel {
                    let offset = channel * band + ky * padded_width + kx;
                    let to = &mut to[k * PANEL..(k + 1) * PANEL];
                    if let [(0, from, PANEL)] = runs[..] {
                        to.copy_from_slice(&padded[offset + from..offset + from + PANEL]);
                    } else {
                        for &(start, from, length) in &runs {
                            let from = &padded[offset + from..offset + from + length];
                            copy_run(from, &mut to[start..start + length]);
                        }
                    }
                    k += 1;
                }
            }
        }
    })
}
