//! GEGLU: a projection, of which one half gates the other.

mod candle;
mod cpu;

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

pub(super) use self::cpu::backward_rows;
use super::linear::FrozenLinear;
use super::shape::{check_bias, replace_last};
use super::weight::{self, FrozenWeight};
use crate::engine::autograd::Variable;

/// `a · gelu(gate)` with `(a | gate) = x Wᵀ + b`, whose `W` and `b` take no gradient: diffusers' `GEGLU`.
///
/// Our kernel never stores the projection, which is eight times as wide as a transformer's hidden states. For the
/// backward pass it keeps `gelu(gate)` and `a · gelu'(gate)`, the factors of the gradients of `a` and `gate`.
pub struct Geglu(Backend);

/// The projection, in the form that its device needs.
enum Backend {
    Cpu(Arc<cpu::Projection>),
    Candle(FrozenLinear),
}

impl Geglu {
    /// - `weight`: `(2 · out_features, in_features)`
    /// - `bias`: `(2 · out_features,)`
    pub fn new(weight: impl Into<FrozenWeight>, bias: Tensor) -> Result<Self> {
        let weight = weight.into();
        let [features, in_features] = *weight.shape() else {
            bail!("a matrix of {:?}", weight.shape());
        };
        if !features.is_multiple_of(2) {
            bail!("{features} features cannot be halved");
        }
        check_bias(Some(&bias), features)?;
        let backend = match weight.backend()? {
            weight::Backend::Cpu(weight) => {
                let projection = cpu::Projection::new(weight, &bias, (features / 2, in_features))?;
                Backend::Cpu(Arc::new(projection))
            }
            weight::Backend::Candle(weight) => {
                Backend::Candle(FrozenLinear::new(weight, Some(bias))?)
            }
        };
        Ok(Self(backend))
    }

    /// `(…, in_features)` → `(…, out_features)`.
    pub fn forward(&self, x: &Variable) -> Result<Variable> {
        match &self.0 {
            Backend::Cpu(projection) => {
                let (in_features, out_features) = projection.features();
                let shape = replace_last(x.tensor(), in_features, out_features)?;
                let (y, factors) = projection.forward(x.tensor(), shape, x.is_tracked())?;
                let projection = projection.clone();
                Ok(Variable::derived(y, [x], move |dy, _| {
                    let shape = replace_last(dy, out_features, in_features)?;
                    Ok([Some(projection.backward(&factors, dy, shape)?)])
                }))
            }
            Backend::Candle(projection) => {
                let projected = projection.forward(x)?;
                let input = projected.tensor().clone();
                let y = candle::forward(&input)?;
                Ok(Variable::derived(y, [&projected], move |dy, _| {
                    Ok([Some(candle::backward(&input, dy)?)])
                }))
            }
        }
    }
}
