//! Convolution with frozen filters.

mod candle;
mod cpu;
mod geometry;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

pub use self::geometry::Padding;
use self::geometry::{Geometry, Pass};
use super::precision::Precision;
use super::weight::{self, FrozenWeight};
use crate::engine::autograd::Variable;

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
    backend: Backend,
}

/// The filters, where they are used.
enum Backend {
    Cpu(cpu::Filters),
    Candle(candle::Filters),
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
        let backend = match weight.backend()? {
            weight::Backend::Cpu(weight) => {
                let channels = (in_channels, out_channels);
                Backend::Cpu(cpu::Filters::new(geometry, weight, bias, channels, precision)?)
            }
            weight::Backend::Candle(weight) => Backend::Candle(candle::Filters::new(weight, bias)?),
        };
        Ok(Self(Arc::new(Filters { geometry, in_channels, backend })))
    }

    /// `(batch, height, width, in_channels)` → `(batch, height', width', out_channels)`.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        let y = self.convolve(x.tensor(), None)?;
        let (conv, size) = (self.clone(), x.tensor().dims4()?);
        Ok(Variable::derived(y, [x], move |dy, _| {
            Ok([Some(conv.input_gradient(dy, (size.1, size.2))?)])
        }))
    }

    /// [`Self::forward`] plus `other`, which has the shape of the result.
    pub fn forward_add(&self, x: &Variable, other: &Variable) -> Result<Variable> {
        let y = self.convolve(x.tensor(), Some(other.tensor()))?;
        let (conv, size) = (self.clone(), x.tensor().dims4()?);
        Ok(Variable::derived(y, [x, other], move |dy, [wanted, _]| {
            let dx = wanted.then(|| conv.input_gradient(dy, (size.1, size.2))).transpose()?;
            Ok([dx, Some(dy.clone())])
        }))
    }

    fn convolve(&self, x: &Tensor, epilogue: Option<&Tensor>) -> Result<Tensor> {
        let Filters { geometry, in_channels, .. } = *self.0;
        let (_, height, width, channels) = x.dims4()?;
        if channels != in_channels {
            bail!("an image of {channels} channels under filters that take {in_channels}");
        }
        let output = geometry.output(height, width);
        let pass = Pass { geometry, input: (height, width), output, backward: false };
        match &self.0.backend {
            Backend::Cpu(filters) => filters.forward(x, pass, epilogue),
            Backend::Candle(filters) => filters.forward(x, geometry, epilogue),
        }
    }

    /// From the gradient of the result to that of an image of `(height, width)`.
    pub fn input_gradient(&self, dy: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        let geometry = self.0.geometry;
        let (_, rows, columns, _) = dy.dims4()?;
        let pass =
            Pass { geometry, input: (rows, columns), output: (height, width), backward: true };
        match &self.0.backend {
            Backend::Cpu(filters) => filters.backward(dy, pass),
            Backend::Candle(filters) => filters.backward(dy, geometry, (height, width)),
        }
    }
}
