//! Convolution with frozen filters.

mod direct;
mod unfolded;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use self::direct::Direct;
use self::unfolded::Unfolded;
use super::cpu::{filled, tensor, values};
use super::product::{Add, FrozenMatrix, Start, multiply_rows};
use super::stored::{self, FrozenWeight, Stored};
use super::winograd::{Image, Winograd};
use super::{Precision, elsewhere};
use crate::engine::autograd::Variable;

/// Filters up to this size are packed or kept transformed, in bytes; larger ones are read where they lie, in each call
/// anew.
pub(super) const SMALL: usize = 4 << 20;

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
/// On the CPU, 3×3 kernels of stride 1 go through Winograd's minimal filtering if [`Precision::Fast`] allows it.
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
        bias: Option<Vec<f32>>,
        plain: Plain,
        winograd: Option<Box<Winograd>>,
    },
    Elsewhere {
        /// `(kernel² · in_channels, out_channels)`.
        matrix: Tensor,
        bias: Option<Tensor>,
    },
}

/// How a sum is taken term by term, as the definition has it.
enum Plain {
    /// Kernels of one pixel, whose filters are the matrix of a linear layer.
    Pixelwise(FrozenMatrix),
    Direct(Direct),
    Unfolded(Unfolded),
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
    /// Positions of the kernel.
    fn area(self) -> usize {
        self.geometry.kernel * self.geometry.kernel
    }

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
        let padding = self.geometry.padding;
        let ((height, width), (rows, columns)) = (self.input, self.output);
        let (ys, xs) =
            (self.along(height, rows, padding.top), self.along(width, columns, padding.left));
        let place =
            |pixel: usize| (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
        let places: Vec<_> = pixels.map(place).collect();
        let mut starts = Vec::with_capacity(self.area() * places.len());
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

impl Plain {
    /// - `weight`: `(out_channels, in_channels, kernel, kernel)`
    fn new(geometry: Geometry, weight: Stored, in_channels: usize, out_channels: usize) -> Self {
        let Geometry { kernel, stride, padding } = geometry;
        if kernel == 1 && stride == 1 && padding == Padding::same(0) {
            return Self::Pixelwise(FrozenMatrix::new(weight, out_channels, in_channels));
        }
        if weight.size_bytes() <= SMALL {
            return Self::Direct(Direct::new(weight, in_channels, out_channels));
        }
        let depth = in_channels * kernel * kernel;
        Self::Unfolded(Unfolded(FrozenMatrix::new(weight, out_channels, depth)))
    }
}

impl FrozenConv2d {
    /// - `weight`: `(out_channels, in_channels, kernel, kernel)`
    /// - `bias`: `(out_channels,)`
    pub fn new(
        weight: impl Into<FrozenWeight>,
        bias: Option<Tensor>,
        stride: usize,
        padding: Padding,
        precision: Precision,
    ) -> Result<Self> {
        let weight = weight.into();
        let [out_channels, in_channels, kernel, width] = *weight.shape() else {
            bail!("filters of {:?}", weight.shape());
        };
        if kernel != width {
            bail!("a kernel of {kernel}×{width} is not square");
        }
        let geometry = Geometry { kernel, stride, padding };
        let place = match weight.place()? {
            stored::Place::Cpu(weight) => {
                let bias = bias.map(|bias| bias.to_vec1()).transpose()?;
                let suits = precision == Precision::Fast
                    && Winograd::suits(geometry, in_channels, out_channels);
                let winograd = suits
                    .then(|| Box::new(Winograd::new(weight.clone(), in_channels, out_channels)));
                let plain = Plain::new(geometry, weight, in_channels, out_channels);
                Place::Cpu { bias, plain, winograd }
            }
            stored::Place::Elsewhere(weight) => {
                let matrix = weight.permute((2, 3, 1, 0))?.contiguous()?;
                Place::Elsewhere { matrix: matrix.reshape(((), out_channels))?, bias }
            }
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
        let (bias, plain, winograd) = match &self.0.place {
            Place::Cpu { bias, plain, winograd } => (bias.as_deref(), plain, winograd),
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
                winograd.forward(&x, image, add, y);
            }
            _ => match plain {
                Plain::Pixelwise(matrix) => multiply_rows(&x, matrix.right(), add, y),
                Plain::Direct(direct) => direct.forward(&x, batch, way, add, y),
                Plain::Unfolded(unfolded) => unfolded.forward(&x, batch, way, add, y),
            },
        });
        tensor(y, shape)
    }

    /// From the gradient of the result to that of an image of `(height, width)`.
    pub fn convolve_back(&self, dy: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        let Filters { geometry, in_channels, .. } = *self.0;
        let (batch, rows, columns, _) = dy.dims4()?;
        let (plain, winograd) = match &self.0.place {
            Place::Cpu { plain, winograd, .. } => (plain, winograd),
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
                winograd.backward(&dy, image, dx);
            }
            _ => match plain {
                Plain::Pixelwise(matrix) => {
                    multiply_rows(&dy, matrix.turned(), Add::default(), dx);
                }
                Plain::Direct(direct) => direct.backward(&dy, batch, way, dx),
                Plain::Unfolded(unfolded) => unfolded.backward(&dy, batch, way, dx),
            },
        });
        tensor(dx, (batch, height, width, in_channels))
    }
}
