//! Linear layers with a frozen matrix.

mod candle;
mod cpu;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::activation::{self, Function};
use super::shape::{check_bias, replace_last};
use super::sum::plus;
use super::weight::{self, FrozenWeight};
use crate::engine::autograd::Variable;

/// `x Wᵀ + b`, whose `W` and `b` take no gradient; `dx = dy W`.
#[derive(Clone)]
pub struct FrozenLinear(Arc<Matrix>);

struct Matrix {
    in_features: usize,
    out_features: usize,
    backend: Backend,
}

/// The matrix, in the form that its device needs.
enum Backend {
    Cpu(Box<cpu::Matrix>),
    Candle(candle::Matrix),
}

impl FrozenLinear {
    /// - `weight`: `(out_features, in_features)`
    /// - `bias`: `(out_features,)`
    pub fn new(weight: impl Into<FrozenWeight>, bias: Option<Tensor>) -> Result<Self> {
        let weight = weight.into();
        let [out_features, in_features] = *weight.shape() else {
            bail!("a matrix of {:?}", weight.shape());
        };
        check_bias(bias.as_ref(), out_features)?;
        let backend = match weight.backend()? {
            weight::Backend::Cpu(weight) => {
                let matrix = cpu::Matrix::new(weight, bias, (out_features, in_features))?;
                Backend::Cpu(Box::new(matrix))
            }
            weight::Backend::Candle(weight) => Backend::Candle(candle::Matrix { weight, bias }),
        };
        Ok(Self(Arc::new(Matrix { in_features, out_features, backend })))
    }

    /// `(…, in_features)` → `(…, out_features)`.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        let y = self.apply(x.tensor(), None)?;
        let linear = self.clone();
        Ok(Variable::derived_adding(y, x, move |dy, so_far| linear.input_gradient(dy, so_far)))
    }

    /// [`Self::forward`] plus `other`, which has the shape of the result.
    pub fn forward_add(&self, x: &Variable, other: &Variable) -> Result<Variable> {
        let y = self.apply(x.tensor(), Some(other.tensor()))?;
        let linear = self.clone();
        Ok(Variable::derived(y, [x, other], move |dy, [wanted, _]| {
            let dx = wanted.then(|| linear.input_gradient(dy, None)).transpose()?;
            Ok([dx, Some(dy.clone())])
        }))
    }

    /// [`Self::forward`], then [`gelu`](super::gelu).
    pub fn forward_gelu(&self, x: &Variable) -> Result<Variable> {
        self.forward_activated(x, Function::Gelu)
    }

    /// [`Self::forward`], then [`quick_gelu`](super::quick_gelu).
    pub fn forward_quick_gelu(&self, x: &Variable) -> Result<Variable> {
        self.forward_activated(x, Function::QuickGelu)
    }

    /// Without a backward pass, the CPU never stores the projection.
    fn forward_activated(&self, x: &Variable, function: Function) -> Result<Variable> {
        let Matrix { in_features, out_features, backend } = &*self.0;
        match backend {
            Backend::Cpu(matrix) if !x.is_tracked() => {
                let shape = replace_last(x.tensor(), *in_features, *out_features)?;
                Ok(Variable::from(&matrix.forward_activated(x.tensor(), function, shape)?))
            }
            Backend::Cpu(_) | Backend::Candle(_) => activation::apply(function, &self.forward(x)?),
        }
    }

    fn apply(&self, x: &Tensor, other: Option<&Tensor>) -> Result<Tensor> {
        let Matrix { in_features, out_features, backend } = &*self.0;
        let shape = replace_last(x, *in_features, *out_features)?;
        if let Some(other) = other
            && other.dims() != shape
        {
            bail!("{:?} is added to a result of {shape:?}", other.dims());
        }
        match backend {
            Backend::Cpu(matrix) => matrix.forward(x, other, shape),
            Backend::Candle(matrix) => matrix.forward(x, other, shape),
        }
    }

    /// The gradient of the input from that of the result, plus what it is `so_far`.
    fn input_gradient(&self, dy: &Tensor, so_far: Option<&Tensor>) -> Result<Tensor> {
        let Matrix { in_features, out_features, backend } = &*self.0;
        let shape = replace_last(dy, *out_features, *in_features)?;
        match backend {
            Backend::Cpu(matrix) => matrix.backward(dy, so_far, shape),
            Backend::Candle(matrix) => plus(matrix.backward(dy, shape)?, so_far),
        }
    }
}
