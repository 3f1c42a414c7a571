//! What elements of a call attend to.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{D, DType, Device, Tensor};

use crate::engine::error::{EngineError, Result};
use crate::engine::ops::{self, Precision};

/// An element of a call whose cross-attention is kept.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its place in the batch.
    pub element: usize,
    /// Groups of tokens, by their positions in the prompt. Each gets a map of its own.
    pub groups: Vec<Vec<usize>>,
}

/// What one element attended to, layer by layer.
pub type ElementAttention = Vec<LayerAttention>;

/// What one element attended to in one layer.
#[derive(Clone, Debug)]
pub struct LayerAttention {
    /// For each group, how much each image position attends to its tokens, summed over the group and averaged over the
    /// heads.
    pub groups: Vec<Vec<f32>>,
}

/// Keeps what some elements of a call attend to.
#[derive(Clone, Debug)]
pub struct Watch {
    watched: Arc<[Watched]>,
    /// One for each of `watched`.
    seen: Arc<Mutex<Vec<ElementAttention>>>,
}

impl Watch {
    pub(super) fn new(watched: Vec<Watched>) -> Self {
        let seen = vec![ElementAttention::new(); watched.len()];
        Self { watched: watched.into(), seen: Arc::new(Mutex::new(seen)) }
    }

    /// What has been kept, in the order of the watched elements.
    pub(super) fn take(&self) -> Vec<ElementAttention> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Keeps what the elements attend to in one layer.
    ///
    /// The probabilities come from attention itself: with values that are 1 in column `g` of every head at the tokens of
    /// group `g`, and 0 elsewhere, its result has the sums over the groups.
    ///
    /// - `query`: `(batch, positions, heads · head_dim)`
    /// - `key`: `(batch, tokens, heads · head_dim)`
    pub(super) fn record(&self, query: &Tensor, key: &Tensor, heads: usize) -> Result<()> {
        let head_dim = query.dim(D::Minus1)? / heads;
        for (index, watched) in self.watched.iter().enumerate() {
            if watched.groups.len() > head_dim {
                let text = format!(
                    "{} groups of tokens to watch, at most {head_dim}",
                    watched.groups.len()
                );
                return Err(EngineError::InvalidInput(text));
            }
            let query = query.narrow(0, watched.element, 1)?;
            let key = key.narrow(0, watched.element, 1)?;
            let marks = marks(&watched.groups, key.dim(1)?, heads, head_dim);
            let value =
                Tensor::from_vec(marks, key.shape(), key.device())?.to_dtype(key.dtype())?;
            let scale = (head_dim as f64).powf(-0.5);
            let sums = ops::attention(
                &query.into(),
                &key.into(),
                &value.into(),
                heads,
                scale,
                None,
                Precision::Exact,
            )?;
            let sums: Vec<f32> = sums
                .into_tensor()
                .to_dtype(DType::F32)?
                .to_device(&Device::Cpu)?
                .flatten_all()?
                .to_vec1()?; // (positions, heads · head_dim)
            let of_group = |group: usize| -> Vec<f32> {
                let of_position = |sums: &[f32]| {
                    sums.iter().skip(group).step_by(head_dim).sum::<f32>() / heads as f32
                };
                sums.chunks_exact(heads * head_dim).map(of_position).collect()
            };
            let groups = (0..watched.groups.len()).map(of_group).collect();
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen[index].push(LayerAttention { groups });
        }
        Ok(())
    }
}

/// `(tokens, heads · head_dim)`: 1 at a group's tokens in its column of every head.
fn marks(groups: &[Vec<usize>], tokens: usize, heads: usize, head_dim: usize) -> Vec<f32> {
    let mut marks = vec![0.0; tokens * heads * head_dim];
    for (group, positions) in groups.iter().enumerate() {
        for &token in positions.iter().filter(|&&token| token < tokens) {
            for head in 0..heads {
                marks[(token * heads + head) * head_dim + group] = 1.0;
            }
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_the_probabilities_of_the_groups_tokens() {
        let (heads, head_dim, tokens) = (2, 3, 4);
        let numbers = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| ((i * 37 + seed * 11) % 17) as f32 / 5.0 - 1.5).collect()
        };
        let (q, k) = (numbers(2 * 5 * 6, 1), numbers(2 * tokens * 6, 2));
        let query = Tensor::from_vec(q.clone(), (2, 5, 6), &Device::Cpu).unwrap();
        let key = Tensor::from_vec(k.clone(), (2, tokens, 6), &Device::Cpu).unwrap();
        let watch = Watch::new(vec![Watched { element: 1, groups: vec![vec![1], vec![0, 3]] }]);

        watch.record(&query, &key, heads).unwrap();

        let seen = watch.take();
        for position in 0..5 {
            let mut expected = [0.0, 0.0];
            for head in 0..heads {
                let dot = |token: usize| -> f32 {
                    let at = |of: &[f32], row: usize, c: usize| of[row * 6 + head * head_dim + c];
                    (0..head_dim).map(|c| at(&q, 5 + position, c) * at(&k, tokens + token, c)).sum()
                };
                let exp: Vec<f32> = (0..tokens)
                    .map(|token| (dot(token) / (head_dim as f32).sqrt()).exp())
                    .collect();
                let sum: f32 = exp.iter().sum();
                expected[0] += exp[1] / sum / heads as f32;
                expected[1] += (exp[0] + exp[3]) / sum / heads as f32;
            }
            for (group, expected) in expected.iter().enumerate() {
                let found = seen[0][0].groups[group][position];
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}
