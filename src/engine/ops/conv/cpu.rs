//! Convolution on the CPU, and which algorithm computes a layer.

mod direct;
mod limits;
mod unfolded;
mod winograd;

use candle_core::{Result, Tensor};

use self::direct::Direct;
use self::limits::MAX_CACHED_BYTES;
use self::unfolded::Unfolded;
use self::winograd::{Image, Winograd};
use super::geometry::{Geometry, Padding, Pass};
use crate::engine::ops::buffer::{filled, tensor, values};
use crate::engine::ops::gemm::{Epilogue, FrozenMatrix, par_gemm_rows};
use crate::engine::ops::precision::Precision;
use crate::engine::ops::weight::CpuWeight;

/// The filters of one layer.
pub(super) struct Filters {
    in_channels: usize,
    out_channels: usize,
    bias: Option<Vec<f32>>,
    /// Computes what Winograd's filtering does not.
    plain: Plain,
    winograd: Option<Box<Winograd>>,
}

/// The algorithms that take each sum term by term, as in the definition.
enum Plain {
    /// A kernel of one pixel: its filters are the matrix of a linear layer.
    Pixelwise(FrozenMatrix),
    Direct(Direct),
    Unfolded(Unfolded),
}

impl Plain {
    /// - `weight`: `(out_channels, in_channels, kernel, kernel)`
    fn new(geometry: Geometry, weight: CpuWeight, in_channels: usize, out_channels: usize) -> Self {
        let Geometry { kernel, stride, padding } = geometry;
        if kernel == 1 && stride == 1 && padding == Padding::same(0) {
            return Self::Pixelwise(FrozenMatrix::new(weight, out_channels, in_channels));
        }
        if weight.size_bytes() <= MAX_CACHED_BYTES {
            return Self::Direct(Direct::new(weight, in_channels, out_channels));
        }
        let depth = in_channels * kernel * kernel;
        Self::Unfolded(Unfolded(FrozenMatrix::new(weight, out_channels, depth)))
    }
}

impl Filters {
    /// - `weight`: `(out_channels, in_channels, kernel, kernel)`
    /// - `bias`: `(out_channels,)`
    pub(super) fn new(
        geometry: Geometry,
        weight: CpuWeight,
        bias: Option<Tensor>,
        (in_channels, out_channels): (usize, usize),
        precision: Precision,
    ) -> Result<Self> {
        let bias = bias.map(|bias| bias.to_vec1()).transpose()?;
        let is_supported = precision != Precision::Exact
            && Winograd::supports(geometry, in_channels, out_channels);
        let winograd = is_supported
            .then(|| Box::new(Winograd::new(weight.clone(), in_channels, out_channels)));
        let plain = Plain::new(geometry, weight, in_channels, out_channels);
        Ok(Self { in_channels, out_channels, bias, plain, winograd })
    }

    /// The result, plus `other`.
    ///
    /// - `pass`: from the image to the result
    pub(super) fn forward(&self, x: &Tensor, pass: Pass, other: Option<&Tensor>) -> Result<Tensor> {
        let Self { out_channels, ref bias, ref plain, ref winograd, .. } = *self;
        let batch = x.dim(0)?;
        let ((height, width), output) = (pass.input, pass.output);
        let x = x.contiguous()?;
        let x = values(&x)?;
        let other = other.map(|other| other.contiguous()).transpose()?;
        let other = other.as_ref().map(values).transpose()?;
        let epilogue = Epilogue {
            bias: bias.as_deref(),
            addend: other.as_ref().map(|other| (&**other, out_channels)),
            accumulate: false,
        };
        let y = filled(batch * output.0 * output.1 * out_channels, |y| match winograd {
            Some(winograd) if Winograd::is_faster_for(height, width) => {
                let image = Image { batch, height, width };
                winograd.forward(&x, image, epilogue, y);
            }
            _ => match plain {
                Plain::Pixelwise(matrix) => {
                    par_gemm_rows(&x, matrix.forward_factor().right(), epilogue, y);
                }
                Plain::Direct(direct) => direct.forward(&x, batch, pass, epilogue, y),
                Plain::Unfolded(unfolded) => unfolded.forward(&x, batch, pass, epilogue, y),
            },
        });
        tensor(y, (batch, output.0, output.1, out_channels))
    }

    /// The gradient of the image from that of the result.
    ///
    /// - `pass`: from the result to the image
    pub(super) fn backward(&self, dy: &Tensor, pass: Pass) -> Result<Tensor> {
        let Self { in_channels, ref plain, ref winograd, .. } = *self;
        let (batch, (height, width)) = (dy.dim(0)?, pass.output);
        let dy = dy.contiguous()?;
        let dy = values(&dy)?;
        let dx = filled(batch * height * width * in_channels, |dx| match winograd {
            Some(winograd) if Winograd::is_faster_for(height, width) => {
                let image = Image { batch, height, width };
                winograd.backward(&dy, image, dx);
            }
            _ => match plain {
                Plain::Pixelwise(matrix) => {
                    let factor = matrix.backward_factor();
                    par_gemm_rows(&dy, factor.right(), Epilogue::default(), dx);
                }
                Plain::Direct(direct) => direct.backward(&dy, batch, pass, dx),
                Plain::Unfolded(unfolded) => unfolded.backward(&dy, batch, pass, dx),
            },
        });
        tensor(dx, (batch, height, width, in_channels))
    }
}
