//! Merging deltas over a base model, from their packs, and how well that goes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::domain::merge::{MergeRecipe, MergeReport, PairReport, Protected};
use crate::engine::base_model::BaseModel;
use crate::engine::conditioning::{KeyValue, row_at};
use crate::engine::custom_diffusion::closed_form::{System, independent_rows};
use crate::engine::custom_diffusion::delta::{Delta, DeltaConcept, DeltaWeights};
use crate::engine::custom_diffusion::merge_base::{MergeBase, Solved};
use crate::engine::custom_diffusion::pack::{MergePack, SolvedPack, name};
use crate::engine::unet::CrossAttentionKv;
use crate::engine::{EngineError, Result, ops};

/// Rows closer than this in every component are one constraint.
const SAME_ROW: f64 = 1e-5;

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

/// A merge's error, and what was asked of it, as sums of squares over one delta's rows.
#[derive(Clone, Copy, Default)]
struct Residual {
    missed: f64,
    asked: f64,
}

impl Residual {
    fn ratio(all: &[Self]) -> f64 {
        let missed: f64 = all.iter().map(|one| one.missed.max(0.0)).sum();
        let asked: f64 = all.iter().map(|one| one.asked).sum();
        (missed / asked.max(f64::MIN_POSITIVE)).sqrt()
    }
}

impl Merge {
    /// Solves for several deltas.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if fewer than two deltas are given, they are not of the same base model, two of
    /// them use the same modifier token or teach the same class noun, or equality cannot be had.
    pub fn new(merge_base: &MergeBase, packs: &[PackUse], recipe: &MergeRecipe) -> Result<Self> {
        check(merge_base, packs)?;
        Self::solve(merge_base, packs, recipe)
    }

    /// The same without those checks, and for one delta as well.
    pub fn solve(merge_base: &MergeBase, packs: &[PackUse], recipe: &MergeRecipe) -> Result<Self> {
        let solve = |used: &PackUse| Ok((used.clone(), used.pack.solved(merge_base)?));
        let packs = packs.iter().map(solve).collect::<Result<Vec<_>>>()?;
        let mut rows = GatheredRows::default();
        for (_, solved) in &packs {
            rows.add(&solved.targets)?;
        }
        let targets = rows.known.len();
        for protected in &recipe.protect {
            match protected {
                Protected::EmptyPrompt => rows.add_unknown(&merge_base.empty)?,
                Protected::ClassNouns => {
                    for (_, solved) in &packs {
                        rows.add_unknown(&solved.nouns)?;
                    }
                }
            }
        }
        let system = rows.into_system(targets, recipe.constraint.weight())?;
        let concepts = packs.iter().flat_map(|(used, _)| {
            used.pack.concepts.iter().map(|learnt| (learnt.clone(), used.strength))
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
        let concepts = self.concepts.iter().map(|(learnt, strength)| {
            Ok(DeltaConcept { token_row: row_at(base, learnt, *strength)?, ..learnt.clone() })
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

    /// How well it went, together and two by two.
    pub fn report(&self, merge_base: &MergeBase, recipe: &MergeRecipe) -> Result<MergeReport> {
        let (residuals, drift) = self.residuals(merge_base)?;
        let packs: Vec<PackUse> = self.packs.iter().map(|(used, _)| used.clone()).collect();
        let mut alone = Vec::new();
        for used in &packs {
            let only = Self::solve(merge_base, std::slice::from_ref(used), recipe)?;
            alone.extend(only.residuals(merge_base)?.0);
        }
        let mut pairs = Vec::new();
        for (i, first) in packs.iter().enumerate() {
            for (j, second) in packs.iter().enumerate().skip(i + 1) {
                let (of_pair, drift) = if packs.len() == 2 {
                    (residuals.clone(), drift)
                } else {
                    let two = [first.clone(), second.clone()];
                    Self::solve(merge_base, &two, recipe)?.residuals(merge_base)?
                };
                let features = [first.pack.features(), second.pack.features()];
                pairs.push(PairReport {
                    pair: (i, j),
                    overlap: merge_base.regularization.overlap(features[0], features[1])?,
                    constraint_error: Residual::ratio(&of_pair),
                    constraint_error_alone: Residual::ratio(&[alone[i], alone[j]]),
                    drift,
                });
            }
        }
        Ok(MergeReport {
            constraint_error: Residual::ratio(&residuals),
            drift,
            condition: self.system.condition(),
            deltas: residuals.iter().map(|one| Residual::ratio(&[*one])).collect(),
            pairs,
        })
    }

    /// The error over each delta's rows, and the drift.
    fn residuals(&self, merge_base: &MergeBase) -> Result<(Vec<Residual>, f64)> {
        let changes = self.changes()?;
        let gram = ops::matmul(&changes, &changes.t()?)?.to_dtype(DType::F64)?; // Eᵀ E
        // ‖A Eᵀ‖² for rows `A` of coefficients.
        let energy = |a: &Tensor| -> Result<f64> {
            Ok((a.matmul(&gram)? * a)?.sum_all()?.to_scalar::<f64>()?)
        };
        let asked = self.weighted(&Tensor::eye(self.targets, DType::F64, &Device::Cpu)?)?;
        let mut residuals = Vec::new();
        let mut start = 0;
        for (_, solved) in &self.packs {
            let rows = solved.targets.len()?;
            let got = self.weighted(&self.system.coefficients(&solved.targets.features)?)?;
            let asked = asked.narrow(0, start, rows)?;
            residuals.push(Residual { missed: energy(&(got - &asked)?)?, asked: energy(&asked)? });
            start += rows;
        }
        // ‖H ΔWᵀ‖² = tr(Eᵀ E · P HᵀH Pᵀ)
        let p = self.p()?;
        let moved = p.matmul(&merge_base.held_out)?.matmul(&p.t()?)?;
        let moved = (moved * gram)?.sum_all()?.to_scalar::<f64>()?;
        Ok((residuals, (moved.max(0.0) / merge_base.held_out_scale).sqrt()))
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

/// The rows of a merge's system, one below the other.
#[derive(Default)]
struct GatheredRows {
    known: Vec<Vec<f64>>,
    features: Vec<Tensor>,
    d: Vec<Tensor>,
}

impl GatheredRows {
    fn add(&mut self, rows: &Solved) -> Result<()> {
        self.known.extend(rows.features.to_vec2()?);
        self.features.push(rows.features.clone());
        self.d.push(rows.d.clone());
        Ok(())
    }

    /// Leaves out what is there already: a protected noun that one of the deltas teaches, the end of a shared prompt.
    fn add_unknown(&mut self, rows: &Solved) -> Result<()> {
        let mut kept = Vec::new();
        for (index, row) in rows.features.to_vec2::<f64>()?.into_iter().enumerate() {
            let same =
                |known: &Vec<f64>| known.iter().zip(&row).all(|(a, b)| (a - b).abs() < SAME_ROW);
            if !self.known.iter().any(same) {
                self.known.push(row);
                kept.push(index as u32);
            }
        }
        if !kept.is_empty() {
            let kept = Tensor::new(kept, &Device::Cpu)?;
            self.features.push(rows.features.index_select(&kept, 0)?);
            self.d.push(rows.d.index_select(&kept, 0)?);
        }
        Ok(())
    }

    /// - `targets`: rows with changes, which come first
    fn into_system(self, targets: usize, constraint_weight: Option<f64>) -> Result<System> {
        let (features, d) = (Tensor::cat(&self.features, 0)?, Tensor::cat(&self.d, 0)?);
        if constraint_weight.is_some() {
            return System::new(&features, d, constraint_weight);
        }
        // Equality can be had of as many rows as the text space has dimensions: what is only protected gives way.
        let kept = Tensor::new(independent_rows(&features, &d, targets)?, &Device::Cpu)?;
        System::new(&features.index_select(&kept, 0)?, d.index_select(&kept, 0)?, None)
    }
}

/// Checks that deltas can be merged at all.
fn check(merge_base: &MergeBase, packs: &[PackUse]) -> Result<()> {
    if packs.len() < 2 {
        return Err(EngineError::InvalidInput(format!(
            "a merge takes at least 2 deltas, got {}",
            packs.len()
        )));
    }
    let mut names = HashSet::new();
    for used in packs {
        if used.pack.base_digest != merge_base.base_digest {
            return Err(EngineError::InvalidInput(format!(
                "the delta of `{}` belongs to another base model",
                used.pack.concepts.first().map(name).unwrap_or_default()
            )));
        }
        for learnt in &used.pack.concepts {
            let taught = match &learnt.modifier_token {
                Some(token) => token.to_string(),
                None => learnt.class_noun.clone(),
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
