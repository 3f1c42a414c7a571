//! The key and value projections of a training: which of them are trained, whole or in factors.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use super::delta_weights::{DeltaWeights, Factors, Kind};
use crate::domain::training::TrainingRecipe;
use crate::engine::error::Result;
use crate::engine::ops;
use crate::engine::random::{Purpose, Random};
use crate::engine::unet::CrossAttentionKv;

/// All projections in the order of stacked keys and values: each layer's `to_k` before its `to_v`.
///
/// No copy is made of a matrix that is not trained.
pub(super) struct Projections {
    matrices: Vec<Projection>,
    trained: Trained,
    text_dim: usize,
}

struct Projection {
    name: String,
    inner: usize,
    is_trained: bool,
    /// What it is or starts from, `(inner, text_dim)`; `None` if it is trained as a whole matrix.
    fixed: Option<Tensor>,
}

/// The trained tensors, f32.
enum Trained {
    Nothing,
    /// The trained matrices below one another, `(Σ inner, text_dim)`.
    Whole(Tensor),
    /// `W + B A` of each trained matrix: all `A` below one another, `(matrices·rank, text_dim)`, and all `B`, `(Σ inner, rank)`.
    LowRank {
        a: Tensor,
        b: Tensor,
        rank: usize,
    },
}

impl Projections {
    /// Starts from the base model's matrices, or from those that replace them.
    ///
    /// - `start`: by checkpoint name, f32 on the CPU
    /// - `seed`: of the random `A` of a low-rank training
    pub(super) fn new(
        layers: &[CrossAttentionKv],
        recipe: &TrainingRecipe,
        start: &BTreeMap<String, Tensor>,
        seed: u64,
    ) -> Result<Self> {
        let mut matrices = Vec::new();
        for layer in layers {
            for (kind, is_trained) in
                Kind::ALL.into_iter().zip([recipe.learn.key, recipe.learn.value])
            {
                let (name, weight) = (kind.of_layer(&layer.name), kind.weight(layer));
                let fixed = match start.get(&name) {
                    Some(start) => start.to_device(weight.device())?,
                    None => weight.clone(),
                };
                let (inner, fixed) = (fixed.dim(0)?, Some(fixed));
                matrices.push(Projection { name, inner, is_trained, fixed });
            }
        }
        let text_dim = layers.first().map_or(Ok(0), |layer| layer.to_k.dim(1))?;
        let mut projections = Self { matrices, trained: Trained::Nothing, text_dim };
        projections.trained = match recipe.rank {
            _ if !recipe.learn.projections() => Trained::Nothing,
            None => Trained::Whole(projections.take_trained()?),
            Some(rank) => projections.low_rank(rank, seed)?,
        };
        Ok(projections)
    }

    /// Moves the trained matrices below one another.
    fn take_trained(&mut self) -> Result<Tensor> {
        let trained = self.matrices.iter_mut().filter(|one| one.is_trained);
        let taken = trained.filter_map(|one| one.fixed.take());
        let stack = taken.map(|matrix| Ok(matrix.to_dtype(DType::F32)?));
        Ok(Tensor::cat(&stack.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// `B` of zeros, so that the first step starts from the matrices as they are, and `A` of the variance with which a product
    /// `A c` has that of `c`.
    fn low_rank(&self, rank: usize, seed: u64) -> Result<Trained> {
        let trained: Vec<&Projection> = self.matrices.iter().filter(|one| one.is_trained).collect();
        let inner: usize = trained.iter().map(|one| one.inner).sum();
        let mut values = vec![0.0; rank * self.text_dim * trained.len()];
        let scale = (self.text_dim as f32).sqrt().recip();
        for (matrix, values) in values.chunks_mut((rank * self.text_dim).max(1)).enumerate() {
            Random::new(seed, Purpose::LowRankFactor, matrix as u64, 0).normals(values);
            values.iter_mut().for_each(|value| *value *= scale);
        }
        let device = self.matrices.iter().find_map(|one| Some(one.fixed.as_ref()?.device()));
        let device = device.unwrap_or(&candle_core::Device::Cpu);
        Ok(Trained::LowRank {
            a: Tensor::from_vec(values, (rank * trained.len(), self.text_dim), device)?,
            b: Tensor::zeros((inner, rank), DType::F32, device)?,
            rank,
        })
    }

    /// The trained tensors with their names in a saved state.
    pub(super) fn parameters(&self) -> Vec<(&'static str, &Tensor)> {
        match &self.trained {
            Trained::Nothing => Vec::new(),
            Trained::Whole(matrices) => vec![("projections", matrices)],
            Trained::LowRank { a, b, .. } => vec![("lora_a", a), ("lora_b", b)],
        }
    }

    /// Takes new values of [`Self::parameters`], in their order.
    pub(super) fn set(&mut self, values: &mut impl Iterator<Item = Tensor>) {
        let own: Vec<&mut Tensor> = match &mut self.trained {
            Trained::Nothing => Vec::new(),
            Trained::Whole(matrices) => vec![matrices],
            Trained::LowRank { a, b, .. } => vec![a, b],
        };
        own.into_iter().zip(values).for_each(|(own, value)| *own = value);
    }

    /// Keys and values of text features, all side by side: `C Wᵀ`, `(rows, Σ 2·inner)`.
    ///
    /// - `features`: `C`, `(rows, text_dim)`
    pub(super) fn project(&self, features: &Tensor) -> Result<Tensor> {
        let shared = match &self.trained {
            Trained::Nothing => None,
            Trained::Whole(matrices) => Some(ops::matmul(features, &matrices.t()?)?),
            Trained::LowRank { a, .. } => Some(ops::matmul(features, &a.t()?)?),
        };
        if let (Some(all), true) = (&shared, self.is_all_whole()) {
            return Ok(all.clone());
        }
        let mut parts = Vec::with_capacity(self.matrices.len());
        for place in self.places() {
            let fixed = match &place.matrix.fixed {
                Some(fixed) => Some(ops::matmul(features, &fixed.to_dtype(DType::F32)?.t()?)?),
                None => None,
            };
            let own = match (&self.trained, &shared) {
                (Trained::Whole(_), Some(shared)) if place.matrix.is_trained => {
                    Some(shared.narrow(1, place.trained_row, place.matrix.inner)?)
                }
                (Trained::LowRank { b, rank, .. }, Some(shared)) if place.matrix.is_trained => {
                    let shared = shared.narrow(1, place.index * rank, *rank)?.contiguous()?;
                    Some(ops::matmul(&shared, &place.rows_of(b)?.t()?)?)
                }
                (Trained::Nothing | Trained::Whole(_) | Trained::LowRank { .. }, _) => None,
            };
            parts.push(match (fixed, own) {
                (Some(fixed), Some(own)) => ops::sum(&fixed, &own)?,
                (Some(part), None) | (None, Some(part)) => part,
                (None, None) => continue, // a matrix is fixed, trained or both
            });
        }
        Ok(Tensor::cat(&parts, 1)?)
    }

    /// The gradient of each of [`Self::parameters`].
    ///
    /// - `d`: the gradient of what [`Self::project`] returned, `(rows, Σ 2·inner)`
    /// - `features`: as for [`Self::project`]
    pub(super) fn gradients(&self, d: &Tensor, features: &Tensor) -> Result<Vec<Tensor>> {
        match &self.trained {
            Trained::Nothing => Ok(Vec::new()),
            Trained::Whole(_) => {
                Ok(vec![ops::matmul(&self.trained_columns(d)?.t()?, features)?]) // dW = dᵀ C
            }
            Trained::LowRank { a, b, rank } => {
                let shared = ops::matmul(features, &a.t()?)?; // C Aᵀ, (rows, matrices·rank)
                let mut d_b = Vec::new();
                for place in self.trained_places() {
                    let shared = shared.narrow(1, place.index * rank, *rank)?.contiguous()?;
                    d_b.push(ops::matmul(&place.columns_of(d)?.t()?, &shared)?); // (inner, rank)
                }
                let d_shared = self.d_shared(d, b)?;
                Ok(vec![ops::matmul(&d_shared.t()?, features)?, Tensor::cat(&d_b, 0)?])
            }
        }
    }

    /// The gradient of the text features: `dC = d W`, `(rows, text_dim)`.
    pub(super) fn features_gradient(&self, d: &Tensor) -> Result<Tensor> {
        let mut sum = match &self.trained {
            Trained::Nothing => None,
            Trained::Whole(matrices) => Some(ops::matmul(&self.trained_columns(d)?, matrices)?),
            Trained::LowRank { a, b, .. } => Some(ops::matmul(&self.d_shared(d, b)?, a)?),
        };
        for place in self.places() {
            let Some(fixed) = &place.matrix.fixed else { continue };
            let part = ops::matmul(&place.columns_of(d)?, &fixed.to_dtype(DType::F32)?)?;
            sum = Some(match sum {
                Some(sum) => ops::sum(&sum, &part)?,
                None => part,
            });
        }
        match sum {
            Some(sum) => Ok(sum),
            None => Ok(Tensor::zeros((d.dim(0)?, self.text_dim), DType::F32, d.device())?),
        }
    }

    /// The gradient of `C Aᵀ`, `(rows, matrices·rank)`.
    fn d_shared(&self, d: &Tensor, b: &Tensor) -> Result<Tensor> {
        let part = |place: Place<'_>| ops::matmul(&place.columns_of(d)?, &place.rows_of(b)?);
        let parts = self.trained_places().map(|place| Ok(part(place)?));
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?)
    }

    /// The columns of trained matrices.
    fn trained_columns(&self, d: &Tensor) -> Result<Tensor> {
        if self.is_all_whole() {
            return Ok(d.clone());
        }
        let parts = self.trained_places().map(|place| Ok(place.columns_of(d)?));
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?)
    }

    /// Trained matrices `(inner, text_dim)` by checkpoint name, from a tensor of the shape of whole ones below one another,
    /// such as their gradient.
    pub(super) fn by_name(&self, stack: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        let named = self
            .trained_places()
            .map(|place| Ok((place.matrix.name.clone(), place.rows_of(stack)?.copy()?)));
        named.collect()
    }

    /// What has been learned, on the CPU.
    ///
    /// - `start`: the weights of the delta that the training went on from, if any. What it changes stays changed.
    pub(super) fn learned(&self, start: Option<&DeltaWeights>) -> Result<DeltaWeights> {
        let on_host = |tensor: &Tensor| tensor.to_device(&candle_core::Device::Cpu);
        let (a, b, rank) = match &self.trained {
            Trained::Nothing => {
                return Ok(start.cloned().unwrap_or(DeltaWeights::Dense(BTreeMap::new())));
            }
            Trained::Whole(matrices) => {
                let own = self.by_name(&on_host(matrices)?)?;
                return Ok(DeltaWeights::Dense(self.with_fixed(start, own)?));
            }
            Trained::LowRank { a, b, rank } => (on_host(a)?, on_host(b)?, *rank),
        };
        let mut own = BTreeMap::new();
        for place in self.trained_places() {
            let p = a.narrow(0, place.index * rank, rank)?.copy()?;
            let e = place.rows_of(&b)?.copy()?;
            own.insert(place.matrix.name.clone(), Factors { e, p });
        }
        match start {
            None => Ok(DeltaWeights::Factorized(own)),
            Some(DeltaWeights::Dense(_)) => {
                let matrices = self.trained_places().map(|place| {
                    let Factors { e, p } = &own[&place.matrix.name];
                    let change = ops::matmul(e, p)?;
                    let whole = match &place.matrix.fixed {
                        Some(fixed) => (on_host(fixed)?.to_dtype(DType::F32)? + change)?,
                        None => change,
                    };
                    Ok((place.matrix.name.clone(), whole))
                });
                let matrices = matrices.collect::<Result<_>>()?;
                Ok(DeltaWeights::Dense(self.with_fixed(start, matrices)?))
            }
            // A sum of two products is one of both factors side by side.
            Some(start @ (DeltaWeights::LowRank { .. } | DeltaWeights::Factorized(_))) => {
                let mut all = own;
                for name in start.names() {
                    let Some((e, p)) = start.factors(name) else { continue };
                    let both = match all.remove(name) {
                        Some(own) => Factors {
                            e: Tensor::cat(&[e, &own.e], 1)?,
                            p: Tensor::cat(&[p, &own.p], 0)?,
                        },
                        None => Factors { e: e.clone(), p: p.clone() },
                    };
                    all.insert(name.to_owned(), both);
                }
                Ok(DeltaWeights::Factorized(all))
            }
        }
    }

    /// Adds the matrices of `start` that are not trained, whole.
    fn with_fixed(
        &self,
        start: Option<&DeltaWeights>,
        mut matrices: BTreeMap<String, Tensor>,
    ) -> Result<BTreeMap<String, Tensor>> {
        let changed = start.map(DeltaWeights::names).unwrap_or_default();
        for one in self.matrices.iter().filter(|one| changed.contains(&one.name.as_str())) {
            if let (Some(fixed), false) = (&one.fixed, one.is_trained) {
                let fixed = fixed.to_device(&candle_core::Device::Cpu)?.to_dtype(DType::F32)?;
                matrices.insert(one.name.clone(), fixed);
            }
        }
        Ok(matrices)
    }

    /// Whether every matrix is trained as a whole.
    fn is_all_whole(&self) -> bool {
        self.matrices.iter().all(|one| one.fixed.is_none())
    }

    fn trained_places(&self) -> impl Iterator<Item = Place<'_>> {
        self.places().filter(|place| place.matrix.is_trained)
    }

    fn places(&self) -> impl Iterator<Item = Place<'_>> {
        let (mut column, mut trained_row, mut index) = (0, 0, 0);
        self.matrices.iter().map(move |matrix| {
            let place = Place { matrix, column, trained_row, index };
            column += matrix.inner;
            if matrix.is_trained {
                trained_row += matrix.inner;
                index += 1;
            }
            place
        })
    }
}

/// Where a matrix is.
struct Place<'a> {
    matrix: &'a Projection,
    /// Its first column among all keys and values.
    column: usize,
    /// Its first row in a stack of the trained matrices.
    trained_row: usize,
    /// Its place among the trained matrices.
    index: usize,
}

impl Place<'_> {
    fn columns_of(&self, all: &Tensor) -> candle_core::Result<Tensor> {
        all.narrow(1, self.column, self.matrix.inner)?.contiguous()
    }

    fn rows_of(&self, stack: &Tensor) -> candle_core::Result<Tensor> {
        stack.narrow(0, self.trained_row, self.matrix.inner)
    }
}
