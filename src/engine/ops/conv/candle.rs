//! Convolution in candle's tensors (im2col): pixels are gathered, then multiplied by a matrix of filters. On a GPU, cuDNN does both
//! at once where it can.

use candle_core::{Result, Tensor};

use super::geometry::{Geometry, Padding};
use crate::engine::ops::chunks::{CHUNK_FLOATS, in_chunks_of};
use crate::engine::ops::cuda::{self, ConvolutionSizes, Family, Window};

/// The filters of one layer.
pub(super) struct Filters {
    /// `(out_channels, kernel² · in_channels)`.
    matrix: Tensor,
    bias: Option<Tensor>,
}

impl Filters {
    /// - `weight`: `(out_channels, in_channels, kernel, kernel)`
    /// - `bias`: `(out_channels,)`
    pub(super) fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let out_channels = weight.dim(0)?;
        let matrix = weight.permute((0, 2, 3, 1))?.contiguous()?;
        Ok(Self { matrix: matrix.reshape((out_channels, ()))?, bias })
    }

    /// The result, plus `other`.
    ///
    /// - `x`: `(batch, height, width, in_channels)`
    pub(super) fn forward(
        &self,
        x: &Tensor,
        geometry: Geometry,
        other: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (images, height, width, channels) = x.dims4()?;
        let (output, filters) = (geometry.output(height, width), self.matrix.dim(0)?);
        if geometry.is_pointwise() {
            let pixels = x.reshape(((), channels))?;
            if let Some(y) = cuda::product(&pixels, &self.matrix, self.bias.as_ref(), other)? {
                return y.reshape((images, output.0, output.1, filters));
            }
        }
        let sizes = ConvolutionSizes { images, input: (height, width), channels, output, filters };
        let y = match cuda::convolve(x, &self.matrix, window(geometry), sizes, false)? {
            Some(y) => y,
            None => gather_and_multiply(x, &self.matrix.t()?, geometry, PositionOrder::InOrder)?,
        };
        cuda::finish(y, self.bias.as_ref(), other)
    }

    /// The gradient of an image of `(height, width)`: `dy`, dilated by the stride, is convolved with the filters
    /// rotated by 180°.
    ///
    /// To rotate them is to reverse the order of their positions. This costs nothing, since the pixels can be gathered
    /// in that order instead. Input and output channels are exchanged in a copy for the duration of the call: keeping
    /// it would double the memory of all filters.
    pub(super) fn backward(
        &self,
        dy: &Tensor,
        geometry: Geometry,
        (height, width): (usize, usize),
    ) -> Result<Tensor> {
        let Geometry { kernel, stride, padding: p } = geometry;
        let (images, rows, columns, out_channels) = dy.dims4()?;
        let in_channels = self.matrix.dim(1)? / (kernel * kernel);
        let sizes = ConvolutionSizes {
            images,
            input: (height, width),
            channels: in_channels,
            output: (rows, columns),
            filters: out_channels,
        };
        if let Some(dx) = cuda::convolve(dy, &self.matrix, window(geometry), sizes, true)? {
            return Ok(dx);
        }
        // (out, kernel² · in) → (kernel² · out, in), with the positions in the same order
        let by_position = self.matrix.reshape((out_channels, kernel * kernel, in_channels))?;
        let exchanged = by_position.transpose(0, 1)?.contiguous()?.reshape(((), in_channels))?;
        if cuda::has_kernels(dy, Family::Convolution) {
            let gathered = height * width * exchanged.dim(0)?;
            return in_chunks_of(cuda::UNFOLDED, &[dy], gathered, |part| {
                let images = part[0].dim(0)?;
                let gathered = cuda::unfold(&part[0], window(geometry), (height, width), true)?;
                gathered.matmul(&exchanged)?.reshape((images, height, width, in_channels))
            });
        }
        let dilated = dilate(&dilate(dy, 1, stride)?, 2, stride)?;
        let (down, across) = ((rows - 1) * stride + 1, (columns - 1) * stride + 1);
        let (top, left) = (kernel - 1 - p.top, kernel - 1 - p.left);
        let padding = Padding {
            top,
            bottom: (height + kernel - 1).saturating_sub(top + down),
            left,
            right: (width + kernel - 1).saturating_sub(left + across),
        };
        let geometry = Geometry { kernel, stride: 1, padding };
        let dx = gather_and_multiply(&dilated, &exchanged, geometry, PositionOrder::Reversed)?;
        dx.narrow(1, 0, height)?.narrow(2, 0, width)?.contiguous()
    }
}

/// The order in which the kernel's positions are gathered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PositionOrder {
    InOrder,
    Reversed,
}

/// Convolves a chunk of the batch at a time, of which each pixel is in memory once for each position of the kernel.
fn gather_and_multiply(
    x: &Tensor,
    matrix: &Tensor,
    geometry: Geometry,
    positions: PositionOrder,
) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    let (rows, columns) = geometry.output(height, width);
    let has_kernels = cuda::has_kernels(x, Family::Convolution);
    let at_once = if has_kernels { cuda::UNFOLDED } else { CHUNK_FLOATS };
    in_chunks_of(at_once, &[x], rows * columns * matrix.dim(0)?, |part| {
        let images = part[0].dim(0)?;
        let gathered = gather(&part[0], geometry, (rows, columns), positions)?;
        gathered.matmul(matrix)?.reshape((images, rows, columns, ()))
    })
}

/// `(images, height, width, channels)` → `(images · rows · columns, kernel² · channels)`.
fn gather(
    x: &Tensor,
    geometry: Geometry,
    (rows, columns): (usize, usize),
    positions: PositionOrder,
) -> Result<Tensor> {
    let Geometry { kernel, stride, padding: p } = geometry;
    let (images, _, _, channels) = x.dims4()?;
    if geometry.is_pointwise() {
        return x.reshape(((), channels));
    }
    if positions == PositionOrder::InOrder && cuda::has_kernels(x, Family::Convolution) {
        return cuda::unfold(x, window(geometry), (rows, columns), false);
    }
    // Padded so far that each position can be cut out in whole strides.
    let x = x.pad_with_zeros(1, p.top, p.bottom + stride)?.pad_with_zeros(
        2,
        p.left,
        p.right + stride,
    )?;
    let part = |y: usize, x_: usize| -> Result<Tensor> {
        let part = x.narrow(1, y, rows * stride)?.narrow(2, x_, columns * stride)?;
        let part = match stride {
            1 => part,
            _ => part
                .contiguous()?
                .reshape((images * rows, stride, columns, stride, channels))?
                .narrow(1, 0, 1)?
                .narrow(3, 0, 1)?,
        };
        part.contiguous()?.reshape((images * rows * columns, channels))
    };
    let all = (0..kernel * kernel).map(|position| part(position / kernel, position % kernel));
    let mut parts = all.collect::<Result<Vec<_>>>()?;
    if positions == PositionOrder::Reversed {
        parts.reverse();
    }
    Tensor::cat(&parts, 1)?.contiguous()
}

fn window(geometry: Geometry) -> Window {
    let Geometry { kernel, stride, padding } = geometry;
    Window { kernel, stride, top: padding.top, left: padding.left }
}

/// Inserts `stride − 1` zeros between neighbours along `dim`.
fn dilate(x: &Tensor, dim: usize, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let count = x.dim(dim)?;
    let mut shape = x.dims().to_vec();
    shape[dim] = count * stride;
    let dilated = x.unsqueeze(dim + 1)?.pad_with_zeros(dim + 1, 0, stride - 1)?.reshape(shape)?;
    dilated.narrow(dim, 0, (count - 1) * stride + 1)?.contiguous()
}
