//! Merging deltas over a base model, from their packs.

mod closed_form;
mod constraint_rows;
mod pack;
mod place;
mod prompt_rows;
mod report;
mod statistics;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use self::closed_form::System;
use self::constraint_rows::ConstraintRows;
use self::pack::SolvedPack;
use super::concept::DeltaConcept;
use super::delta::Delta;
use super::delta_weights::DeltaWeights;
use crate::domain::merge::{Constraint, MergeRecipe, Protected};
use crate::engine::base_model::BaseModel;
use crate::engine::error::{EngineError, Result};
use crate::engine::key_values::KeyValue;
use crate::engine::ops;
use crate::engine::unet::CrossAttentionKv;

pub use self::pack::MergePack;
pub use self::statistics::{
    RegularizationStatistics, StatisticsBase, captions_digest, encode_captions,
};

/// A delta in a merge, by its pack, and how much of it.
#[derive(Clone)]
pub struct PackUse {
    pub pack: Arc<MergePack>,
    /// The factor of its changes.
    pub strength: f64,
}

/// Several deltas over one base model, solved: `ΔW = E P`.
pub struct Merge {
    /// What the deltas teach, in their order, and each one's strength.
    pub concepts: Vec<(DeltaConcept, f64)>,
    packs: Vec<(PackUse, Arc<SolvedPack>)>,
    system: System,
    /// Rows with changes, which come before those that are protected.
    targets: usize,
}

impl Merge {
    /// Solves for several deltas.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if fewer than two deltas are given, they are not of the same base model, two of
    /// them use the same modifier token or teach the same class noun, or equality is impossible.
    pub fn new(
        statistics: &RegularizationStatistics,
        packs: &[PackUse],
        recipe: &MergeRecipe,
    ) -> Result<Self> {
        check(statistics, packs)?;
        Self::solve(statistics, packs, recipe)
    }

    /// The same without those checks, and for one delta as well.
    pub fn solve(
        statistics: &RegularizationStatistics,
        packs: &[PackUse],
        recipe: &MergeRecipe,
    ) -> Result<Self> {
        let solve = |used: &PackUse| {
            let used = match recipe.constraint {
                Constraint::Soft { .. } => used.clone(),
                Constraint::Hard => PackUse { pack: used.pack.of_paper()?, ..used.clone() },
            };
            let solved = used.pack.solved(statistics)?;
            Ok((used, solved))
        };
        let packs = packs.iter().map(solve).collect::<Result<Vec<_>>>()?;
        let mut rows = ConstraintRows::default();
        for (_, solved) in &packs {
            rows.add(&solved.targets)?;
        }
        let targets = rows.len();
        for protected in &recipe.protect {
            match protected {
                Protected::EmptyPrompt => rows.add_unknown(&statistics.empty)?,
                Protected::ClassNouns => {
                    for (_, solved) in &packs {
                        rows.add_unknown(&solved.nouns)?;
                    }
                }
            }
        }
        let system = rows.into_system(targets, recipe.constraint.weight())?;
        let concepts = packs.iter().flat_map(|(used, _)| {
            used.pack.concepts.iter().map(|learned| (learned.clone(), used.strength))
        });
        Ok(Self { concepts: concepts.collect(), packs, system, targets })
    }

    /// What the merge adds to the keys and values of a prompt, `(tokens, inner)` each, f32 on the CPU.
    ///
    /// - `text`: the prompt's features, `(tokens, text_dim)`
    pub fn change(&self, text: &Tensor, layers: &[CrossAttentionKv]) -> Result<Vec<KeyValue>> {
        let coefficients = self.weighted(&self.system.coefficients(text)?)?.to_dtype(DType::F32)?;
        let stacked: Vec<&Tensor> =
            self.packs.iter().map(|(used, _)| used.pack.changes()).collect();
        let mut widths = Vec::with_capacity(2 * layers.len());
        for layer in layers {
            widths.extend([layer.to_k.dim(0)?, layer.to_v.dim(0)?]);
        }
        let changes = ops::matmul_stacked(&coefficients, &stacked, &widths)?;
        let (pairs, _) = changes.as_chunks::<2>();
        let pair = |[key, value]: &[Tensor; 2]| KeyValue { key: key.clone(), value: value.clone() };
        Ok(pairs.iter().map(pair).collect())
    }

    /// The merge as a delta that holds all concepts of its deltas.
    pub fn to_delta(&self, base: &BaseModel, recipe: &MergeRecipe) -> Result<Delta> {
        let constraint = recipe
            .constraint
            .weight()
            .map_or_else(|| "hard".to_owned(), |weight| weight.to_string());
        let concepts = self.concepts.iter().map(|(learned, strength)| {
            Ok(DeltaConcept {
                embedding_row: learned.embedding_row_at(&base.prompt_encoder, *strength)?,
                ..learned.clone()
            })
        });
        Ok(Delta {
            base_digest: base.digest.clone(),
            concepts: concepts.collect::<Result<_>>()?,
            weights: self.weights(base.unet.cross_attention())?,
            metadata: BTreeMap::from([("constraint_weight".to_owned(), constraint)]),
        })
    }

    /// The merged weights, factorised.
    pub fn weights(&self, layers: &[CrossAttentionKv]) -> Result<DeltaWeights> {
        let p = self.p()?.contiguous()?.to_dtype(DType::F32)?; // (targets, text_dim)
        let changes = self.changes()?; // (targets, Σ 2·inner)
        let mut e = BTreeMap::new();
        let mut start = 0;
        for layer in layers {
            for (part, weight) in [("to_k", &layer.to_k), ("to_v", &layer.to_v)] {
                let inner = weight.dim(0)?;
                let of_layer = changes.narrow(1, start, inner)?.t()?.contiguous()?;
                e.insert(format!("{}.{part}.weight", layer.name), of_layer);
                start += inner;
            }
        }
        Ok(DeltaWeights::LowRank { p, e })
    }

    /// `P`, each row times its delta's strength, `(targets, text_dim)`, f64.
    fn p(&self) -> Result<Tensor> {
        Ok(self.weighted(&self.system.p()?.t()?)?.t()?)
    }

    /// `Eᵀ`, `(targets, Σ 2·inner)`, f32.
    fn changes(&self) -> Result<Tensor> {
        let changes: Vec<&Tensor> =
            self.packs.iter().map(|(used, _)| used.pack.changes()).collect();
        Ok(Tensor::cat(&changes, 0)?)
    }

    /// The columns of rows with changes, each times its delta's strength.
    fn weighted(&self, coefficients: &Tensor) -> Result<Tensor> {
        let mut strengths = Vec::with_capacity(self.targets);
        for (used, solved) in &self.packs {
            strengths.extend(std::iter::repeat_n(used.strength, solved.targets.len()?));
        }
        let strengths = Tensor::new(strengths, &Device::Cpu)?;
        Ok(coefficients.narrow(1, 0, self.targets)?.broadcast_mul(&strengths)?)
    }
}

/// Checks that deltas can be merged at all.
fn check(statistics: &RegularizationStatistics, packs: &[PackUse]) -> Result<()> {
    if packs.len() < 2 {
        return Err(EngineError::InvalidInput(format!(
            "a merge takes at least 2 deltas, got {}",
            packs.len()
        )));
    }
    let mut names = HashSet::new();
    for used in packs {
        if used.pack.base_digest != statistics.base_digest {
            return Err(EngineError::InvalidInput(format!(
                "the delta of `{}` belongs to another base model",
                used.pack.concepts.first().map(|one| one.words.in_prompt()).unwrap_or_default()
            )));
        }
        for learned in &used.pack.concepts {
            let taught = match &learned.words.modifier_token {
                Some(token) => token.to_string(),
                None => learned.words.class_noun.to_string(),
            };
            if !names.insert(taught.clone()) {
                let text = format!(
                    "two of the deltas both teach `{taught}`: leave one out, or train them jointly"
                );
                return Err(EngineError::InvalidInput(text));
            }
        }
    }
    Ok(())
}
