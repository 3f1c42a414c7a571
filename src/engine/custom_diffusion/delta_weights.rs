//! The matrices of a delta, whole or in factors.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::engine::error::{EngineError, Result};
use crate::engine::ops;
use crate::engine::unet::CrossAttentionKv;

/// How the shared `P` is called in files and in messages.
pub(super) const SHARED: &str = "low_rank.p";

/// The weights of a delta; matrices are f32, on the CPU, by checkpoint name such as `….attn2.to_k.weight`.
///
/// Key projections, value projections or both may be missing: they are the base model's. But a delta that changes the keys
/// of one layer has the key projections of all, and likewise for values.
#[derive(Clone, Debug)]
pub enum DeltaWeights {
    /// Whole matrices `W`, `(inner, text_dim)`, in place of the base model's.
    Dense(BTreeMap<String, Tensor>),
    /// `ΔW = E P` with `P` `(rank, text_dim)` shared by all matrices and `E` `(inner, rank)` each: what a merge computes.
    LowRank { p: Tensor, e: BTreeMap<String, Tensor> },
    /// `ΔW = E P` with factors of each matrix's own: what a low-rank training learns, and what compression leaves.
    Factorized(BTreeMap<String, Factors>),
}

/// The factors of one matrix's change, `ΔW = E P`.
#[derive(Clone, Debug)]
pub struct Factors {
    /// `(inner, rank)`.
    pub e: Tensor,
    /// `(rank, text_dim)`.
    pub p: Tensor,
}

impl DeltaWeights {
    /// The names of the matrices that are changed.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Dense(matrices) | Self::LowRank { e: matrices, .. } => {
                matrices.keys().map(String::as_str).collect()
            }
            Self::Factorized(factors) => factors.keys().map(String::as_str).collect(),
        }
    }

    /// Whether keys or values stay the base model's.
    pub(super) fn is_partial(&self) -> bool {
        let names = self.names();
        Kind::ALL.iter().any(|kind| !names.iter().any(|name| kind.has(name)))
    }

    /// `W` of every matrix that is changed, f32 on the CPU.
    ///
    /// - `base`: the base model's own, by name, on any device
    ///
    /// # Errors
    /// [`EngineError::WeightMissing`] and [`EngineError::WeightShape`] if the weights do not fit them.
    pub fn densify(&self, base: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
        if let Self::Dense(matrices) = self {
            return Ok(matrices.clone());
        }
        let mut matrices = BTreeMap::new();
        for (name, weight) in base {
            let Some((e, p)) = self.factors(name) else {
                self.expect_unchanged(name)?;
                continue;
            };
            let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            check_shape(name, e, &[weight.dim(0)?, p.dim(0)?])?;
            matrices.insert(name.clone(), (weight + ops::matmul(e, p)?)?);
        }
        Ok(matrices)
    }

    /// Both factors of a matrix's change; `None` if it is whole or unchanged.
    pub(crate) fn factors(&self, name: &str) -> Option<(&Tensor, &Tensor)> {
        match self {
            Self::Dense(_) => None,
            Self::LowRank { p, e } => e.get(name).map(|e| (e, p)),
            Self::Factorized(factors) => factors.get(name).map(|one| (&one.e, &one.p)),
        }
    }

    /// Refuses a matrix without a change where others of its kind have one.
    fn expect_unchanged(&self, name: &str) -> Result<()> {
        let its_kind = |other: &&str| Kind::of(other) == Kind::of(name);
        match self.names().iter().any(its_kind) || matches!(self, Self::LowRank { .. }) {
            true => Err(EngineError::WeightMissing { name: name.into(), file: "the delta".into() }),
            false => Ok(()),
        }
    }

    /// Checks names and shapes against a base model's layers.
    pub(super) fn check(&self, layers: &[CrossAttentionKv], text_dim: usize) -> Result<()> {
        let mut expected = BTreeMap::new();
        for (name, weight) in kv_weights(layers) {
            expected.insert(name, weight.dim(0)?);
        }
        if let Self::LowRank { p, .. } = self {
            check_shape(SHARED, p, &[p.dim(0)?, text_dim])?;
        }
        for (name, &inner) in &expected {
            match (self, self.factors(name)) {
                (Self::Dense(matrices), _) => match matrices.get(name) {
                    Some(matrix) => check_shape(name, matrix, &[inner, text_dim])?,
                    None => self.expect_unchanged(name)?,
                },
                (_, Some((e, p))) => {
                    check_shape(name, e, &[inner, p.dim(0)?])?;
                    check_shape(name, p, &[e.dim(1)?, text_dim])?;
                }
                (_, None) => self.expect_unchanged(name)?,
            }
        }
        match self.names().into_iter().find(|name| !expected.contains_key(*name)) {
            Some(name) => {
                let text = format!("the delta's `{name}` is not a matrix of the base model");
                Err(EngineError::InvalidInput(text))
            }
            None => Ok(()),
        }
    }

    /// How one matrix's keys or values of text features change: `C ΔWᵀ`, `(rows, inner)`, f32 on the CPU.
    ///
    /// - `weight`: the base model's `W`, on any device
    /// - `features`: `C`, `(rows, text_dim)`, f32 on the CPU
    pub(super) fn change(&self, name: &str, weight: &Tensor, features: &Tensor) -> Result<Tensor> {
        if let Some((e, p)) = self.factors(name) {
            return Ok(ops::matmul(&ops::matmul(features, &p.t()?)?, &e.t()?)?);
        }
        match self {
            Self::Dense(matrices) if matrices.contains_key(name) => {
                let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
                Ok(ops::matmul(features, &(&matrices[name] - weight)?.t()?)?)
            }
            Self::Dense(_) | Self::LowRank { .. } | Self::Factorized(_) => {
                let shape = (features.dim(0)?, weight.dim(0)?);
                Ok(Tensor::zeros(shape, DType::F32, &Device::Cpu)?)
            }
        }
    }

    /// Memory that the weights take.
    pub(super) fn size_bytes(&self) -> usize {
        let bytes = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        match self {
            Self::Dense(matrices) => matrices.values().map(bytes).sum(),
            Self::LowRank { p, e } => bytes(p) + e.values().map(bytes).sum::<usize>(),
            Self::Factorized(factors) => {
                factors.values().map(|one| bytes(&one.e) + bytes(&one.p)).sum()
            }
        }
    }
}

/// What a projection makes of text features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Key,
    Value,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Key, Self::Value];

    fn part(self) -> &'static str {
        match self {
            Self::Key => "to_k",
            Self::Value => "to_v",
        }
    }

    fn has(self, name: &str) -> bool {
        name.ends_with(&format!(".{}.weight", self.part()))
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.has(name))
    }

    /// The name of this projection of a layer.
    pub(super) fn of_layer(self, layer: &str) -> String {
        format!("{layer}.{}.weight", self.part())
    }

    /// This projection of a layer.
    pub(super) fn weight(self, layer: &CrossAttentionKv) -> &Tensor {
        match self {
            Self::Key => &layer.to_k,
            Self::Value => &layer.to_v,
        }
    }
}

/// `to_k` and `to_v` of cross-attention layers by checkpoint name.
pub fn kv_weights(layers: &[CrossAttentionKv]) -> BTreeMap<String, Tensor> {
    let of_layer = |layer: &CrossAttentionKv| {
        Kind::ALL.map(|kind| (kind.of_layer(&layer.name), kind.weight(layer).clone()))
    };
    layers.iter().flat_map(of_layer).collect()
}

pub(super) fn check_shape(name: &str, tensor: &Tensor, expected: &[usize]) -> Result<()> {
    if tensor.dims() == expected {
        return Ok(());
    }
    let (expected, actual) = (expected.to_vec(), tensor.dims().to_vec());
    Err(EngineError::WeightShape { name: name.to_owned(), expected, actual })
}
