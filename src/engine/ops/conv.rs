//! Convolution with frozen filters.

mod candle;
mod cpu;
mod geometry;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

pub(super) use self::geometry::Geometry;
pub use self::geometry::Padding;
use self::geometry::{Direction, Pass};
use super::precision::Precision;
use super::shape::check_bias;
use super::weight::{self, FrozenWeight};
use crate::engine::autograd::Variable;

/// A 2-D convolution whose filters take no gradient. Images have their channels last.
///
/// `y[p, o] = b[o] + Σ_{k, i} W[o, i, k] x[s p + k, i]` over kernel positions `k` and input channels `i`. The gradient
/// of `x` is another convolution, by the filters rotated by 180° with input and output channels exchanged.
///
/// On the CPU, 3×3 kernels of stride 1 use Winograd's minimal filtering if the precision is [`Precision::Fast`].
#[derive(Clone)]
pub struct FrozenConv2d(Arc<Filters>);

struct Filters {
    geometry: Geometry,
    in_channels: usize,
    out_channels: usize,
    backend: Backend,
}

/// The filters, in the form that their device needs.
enum Backend {
    Cpu(Box<cpu::Filters>),
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
        check_bias(bias.as_ref(), out_channels)?;
        let geometry = Geometry { kernel, stride, padding };
        let backend = match weight.backend()? {
            weight::Backend::Cpu(weight) => {
                let channels = (in_channels, out_channels);
                let filters = cpu::Filters::new(geometry, weight, bias, channels, precision)?;
                Backend::Cpu(Box::new(filters))
            }
            weight::Backend::Candle(weight) => Backend::Candle(candle::Filters::new(weight, bias)?),
        };
        Ok(Self(Arc::new(Filters { geometry, in_channels, out_channels, backend })))
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

    fn convolve(&self, x: &Tensor, other: Option<&Tensor>) -> Result<Tensor> {
        let Filters { geometry, in_channels, out_channels, .. } = *self.0;
        let (batch, height, width, channels) = x.dims4()?;
        if channels != in_channels {
            bail!("an image of {channels} channels for filters of {in_channels}");
        }
        let output = geometry.output(height, width);
        if let Some(other) = other
            && other.dims() != [batch, output.0, output.1, out_channels]
        {
            let shape = (batch, output.0, output.1, out_channels);
            bail!("{:?} is added to a result of {shape:?}", other.dims());
        }
        let direction = Direction::Forward;
        let pass = Pass { geometry, input: (height, width), output, direction };
        match &self.0.backend {
            Backend::Cpu(filters) => filters.forward(x, pass, other),
            Backend::Candle(filters) => filters.forward(x, geometry, other),
        }
    }

    /// The gradient of an image of `(height, width)` from the gradient of the result, `dy`.
    pub fn input_gradient(&self, dy: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        let Filters { geometry, out_channels, .. } = *self.0;
        let (_, rows, columns, channels) = dy.dims4()?;
        if channels != out_channels || geometry.output(height, width) != (rows, columns) {
            bail!(
                "a gradient of {:?} for {out_channels} channels of an image of {height}×{width}",
                dy.dims()
            );
        }
        let direction = Direction::Backward;
        let pass = Pass { geometry, input: (rows, columns), output: (height, width), direction };
        match &self.0.backend {
            Backend::Cpu(filters) => filters.backward(dy, pass),
            Backend::Candle(filters) => filters.backward(dy, geometry, (height, width)),
        }
    }
}
