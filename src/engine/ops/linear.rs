//! Linear layers with a frozen matrix.

mod candle;
mod cpu;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::shape::replace_last;
use super::weight::{self, FrozenWeight};
use crate::engine::autograd::Variable;

/// `x Wᵀ + b` whose `W` and `b` take no gradient; `dx = dy W`.
#[derive(Clone)]
pub struct FrozenLinear(Arc<Matrix>);

struct Matrix {
    in_features: usize,
    out_features: usize,
    place: Place,
}

/// The matrix, where it is used.
enum Place {
    Cpu(cpu::Matrix),
    Elsewhere(candle::Matrix),
}

impl FrozenLinear {
    /// - `weight`: `(out_features, in_features)`
    /// - `bias`: `(out_features,)`
    pub fn new(weight: impl Into<FrozenWeight>, bias: Option<Tensor>) -> Result<Self> {
        let weight = weight.into();
        let [out_features, in_features] = *weight.shape() else {
            bail!("a matrix of {:?}", weight.shape());
        };
        let place = match weight.place()? {
            weight::Place::Cpu(stored) => {
                Place::Cpu(cpu::Matrix::new(stored, bias, (out_features, in_features))?)
            }
            weight::Place::Elsewhere(weight) => Place::Elsewhere(candle::Matrix { weight, bias }),
        };
        Ok(Self(Arc::new(Matrix { in_features, out_features, place })))
    }

    /// `(…, in_features)` → `(…, out_features)`.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        let y = self.multiply(x.tensor(), None)?;
        let linear = self.clone();
        Ok(Variable::derived(y, [x], move |dy, _| Ok([Some(linear.multiply_back(dy)?)])))
    }

    /// [`Self::forward`] plus `other`, which has the shape of the result.
    pub fn forward_add(&self, x: &Variable, other: &Variable) -> Result<Variable> {
        let y = self.multiply(x.tensor(), Some(other.tensor()))?;
        let linear = self.clone();
        Ok(Variable::derived(y, [x, other], move |dy, [wanted, _]| {
            let dx = wanted.then(|| linear.multiply_back(dy)).transpose()?;
            Ok([dx, Some(dy.clone())])
        }))
    }

    fn multiply(&self, x: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
        let Matrix { in_features, out_features, place } = &*self.0;
        let shape = replace_last(x, *in_features, *out_features)?;
        match place {
            Place::Cpu(matrix) => matrix.forward(x, add, shape),
            Place::Elsewhere(matrix) => matrix.forward(x, add, shape),
        }
    }

    fn multiply_back(&self, dy: &Tensor) -> Result<Tensor> {
        let Matrix { in_features, out_features, place } = &*self.0;
        let shape = replace_last(dy, *out_features, *in_features)?;
        match place {
            Place::Cpu(matrix) => matrix.backward(dy, shape),
            Place::Elsewhere(matrix) => matrix.backward(dy, shape),
        }
    }
}
