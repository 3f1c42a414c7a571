//! Merging deltas over a base model, from their packs, and how well that goes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::engine::base_model::BaseModel;
use crate::engine::conditioning::{ConceptUse, KeyValue};
use crate::engine::custom_diffusion::closed_form::System;
use crate::engine::custom_diffusion::delta::{Delta, DeltaConcept, DeltaWeights};
use crate::engine::custom_diffusion::pack::{MergeBase, MergePack, PackKey};
use crate::engine::unet::CrossAttentionKv;
use crate::engine::{EngineError, Result, ops};

/// Several deltas over one base model, solved: `ΔW = E P`.
pub struct Merge {
    /// What the deltas teach, in their order, and each one's strength.
    pub concepts: Vec<(DeltaConcept, f64)>,
    system: System,
    /// `Eᵀ` of the packs with changes, in the order of the system's first rows, and how often each counts.
    changes: Vec<(Tensor, f64)>,
    /// Rows with changes.
    targets: usize,
    /// `C`, `(rows, text_dim)`, f64.
    features: Tensor,
    /// For each delta, the features of its concepts alone.
    own: Vec<Tensor>,
}

/// How far a merge is from what was asked of it.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeDiagnostics {
    /// `‖W Cᵀ − V‖ / ‖V − W₀ Cᵀ‖` over the concepts' rows: 0 keeps every concept as it was learnt.
    pub constraint_error: f64,
    /// `‖ΔW cᵀ‖ / ‖W₀ cᵀ‖` on captions that were kept aside: 0 leaves ordinary prompts alone.
    pub drift: f64,
    /// Condition number of the linear system.
    pub condition: f64,
    /// For each pair of deltas, the largest cosine between what they ask for; 1 is the same rows.
    pub overlaps: Vec<((usize, usize), f64)>,
}

impl Merge {
    /// Solves for packs in the order of [`PackKey::of_merge`].
    ///
    /// - `strengths`: one per delta, the factor of its changes
    /// - `constraint_weight`: μ; `None` asks for equality
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if equality cannot be had.
    pub fn new(
        packs: &[(PackKey, Arc<MergePack>)],
        strengths: &[f64],
        constraint_weight: Option<f64>,
    ) -> Result<Self> {
        let mut taken = Vec::new();
        let (mut features, mut d, mut changes, mut own) = (vec![], vec![], vec![], vec![]);
        let mut targets = 0;
        for (key, pack) in packs {
            if let PackKey::Alone(_) = key {
                own.push(pack.features.clone());
            }
            let reduced = pack.without_repeated(&mut taken)?;
            let pack = reduced.as_ref().unwrap_or(pack);
            if pack.len()? == 0 {
                continue;
            }
            features.push(pack.features.clone());
            d.push(pack.d.clone());
            if let (Some(change), Some(owner)) = (&pack.changes, key.owner()) {
                targets += pack.len()?;
                changes.push((change.clone(), strengths[owner]));
            }
        }
        let (features, d) = (Tensor::cat(&features, 0)?, Tensor::cat(&d, 0)?);
        let system = System::new(&features, d, constraint_weight)?;
        Ok(Self { concepts: Vec::new(), system, changes, targets, features, own })
    }

    /// What the merge adds to the keys and values of a prompt, `(tokens, inner)` each, f32 on the CPU.
    ///
    /// - `text`: the prompt's features, `(tokens, text_dim)`
    pub fn change(&self, text: &Tensor, layers: &[CrossAttentionKv]) -> Result<Vec<KeyValue>> {
        let coefficients = self.weighted(&self.system.coefficients(text)?)?.to_dtype(DType::F32)?;
        let stacked: Vec<&Tensor> = self.changes.iter().map(|(change, _)| change).collect();
        let mut widths = Vec::with_capacity(2 * layers.len());
        for layer in layers {
            widths.extend([layer.to_k.dim(0)?, layer.to_v.dim(0)?]);
        }
        let changes = ops::matmul_stacked(&coefficients, &stacked, &widths)?;
        let (pairs, _) = changes.as_chunks::<2>();
        let pair = |[key, value]: &[Tensor; 2]| KeyValue { key: key.clone(), value: value.clone() };
        Ok(pairs.iter().map(pair).collect())
    }

    /// The merged weights, factorised.
    pub fn weights(&self, layers: &[CrossAttentionKv]) -> Result<DeltaWeights> {
        let p = self.weighted(&self.system.p()?.t()?.to_dtype(DType::F64)?)?;
        let p = p.t()?.contiguous()?.to_dtype(DType::F32)?; // (targets, text_dim)
        let changes: Vec<&Tensor> = self.changes.iter().map(|(change, _)| change).collect();
        let changes = Tensor::cat(&changes, 0)?; // (targets, Σ 2·inner)
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

    /// How well it went; a few products of the packs' sizes.
    pub fn diagnostics(&self, merge_base: &MergeBase) -> Result<MergeDiagnostics> {
        let changes: Vec<Tensor> = self.changes.iter().map(|(change, _)| change.clone()).collect();
        let changes = Tensor::cat(&changes, 0)?;
        let gram = ops::matmul(&changes, &changes.t()?)?.to_dtype(DType::F64)?; // Eᵀ E
        // ‖A Eᵀ‖² for rows `A` of coefficients.
        let energy = |a: &Tensor| -> Result<f64> {
            Ok((a.matmul(&gram)? * a)?.sum_all()?.to_scalar::<f64>()?)
        };
        let got = self.weighted(&self.system.coefficients(&self.features)?)?; // (rows, targets)
        let rows = got.dim(0)?;
        let asked = Tensor::eye(self.targets, DType::F64, &Device::Cpu)?;
        let asked = self.weighted(&asked)?.pad_with_zeros(0, 0, rows - self.targets)?;
        let moved = self.weighted(&self.system.coefficients(&merge_base.held_out)?)?;
        let ratio = |part: f64, whole: f64| (part.max(0.0) / whole.max(f64::MIN_POSITIVE)).sqrt();
        let mut overlaps = Vec::new();
        for (i, first) in self.own.iter().enumerate() {
            for (j, second) in self.own.iter().enumerate().skip(i + 1) {
                overlaps.push(((i, j), merge_base.regularization.overlap(first, second)?));
            }
        }
        Ok(MergeDiagnostics {
            constraint_error: ratio(energy(&(got - &asked)?)?, energy(&asked)?),
            drift: ratio(energy(&moved)?, merge_base.held_out_scale),
            condition: self.system.condition(),
            overlaps,
        })
    }

    /// The columns of rows with changes, each times its delta's strength.
    fn weighted(&self, coefficients: &Tensor) -> Result<Tensor> {
        let mut strengths = Vec::with_capacity(self.targets);
        for (change, strength) in &self.changes {
            strengths.extend(std::iter::repeat_n(*strength, change.dim(0)?));
        }
        let strengths = Tensor::new(strengths, &Device::Cpu)?;
        Ok(coefficients.narrow(1, 0, self.targets)?.broadcast_mul(&strengths)?)
    }
}

/// Solves for several deltas; each one's changes count `strength` times.
///
/// # Errors
/// [`EngineError::InvalidInput`] if fewer than two deltas are given, two of them use the same modifier token or teach
/// the same class noun, or equality cannot be had.
pub fn solve(
    base: &BaseModel,
    merge_base: &MergeBase,
    deltas: &[ConceptUse],
    constraint_weight: Option<f64>,
) -> Result<Merge> {
    check(base, deltas)?;
    let whole: Vec<&Delta> = deltas.iter().map(|concept| &*concept.delta).collect();
    let packs = PackKey::of_merge(deltas.len())
        .into_iter()
        .map(|key| Ok((key, Arc::new(MergePack::build(base, merge_base, &whole, key)?))))
        .collect::<Result<Vec<_>>>()?;
    let strengths: Vec<f64> = deltas.iter().map(|concept| concept.strength).collect();
    let merge = Merge::new(&packs, &strengths, constraint_weight)?;
    let concepts = deltas.iter().flat_map(|concept| {
        concept.delta.concepts.iter().map(|learnt| (learnt.clone(), concept.strength))
    });
    Ok(Merge { concepts: concepts.collect(), ..merge })
}

/// Merges several deltas into one whose weights are `E P`, and says how well they go together.
///
/// # Errors
/// Those of [`solve`].
pub fn merge(
    base: &BaseModel,
    merge_base: &MergeBase,
    deltas: &[ConceptUse],
    constraint_weight: Option<f64>,
) -> Result<(Delta, MergeDiagnostics)> {
    let merge = solve(base, merge_base, deltas, constraint_weight)?;
    let constraint =
        constraint_weight.map_or_else(|| "hard".to_owned(), |weight| weight.to_string());
    let delta = Delta {
        base_digest: base.digest.clone(),
        concepts: merge.concepts.iter().map(|(learnt, _)| learnt.clone()).collect(),
        weights: merge.weights(base.unet.cross_attention())?,
        metadata: BTreeMap::from([("constraint_weight".to_owned(), constraint)]),
    };
    Ok((delta, merge.diagnostics(merge_base)?))
}

/// Checks that deltas can be merged at all.
///
/// # Errors
/// [`EngineError::InvalidInput`] as [`solve`] says.
pub fn check(base: &BaseModel, deltas: &[ConceptUse]) -> Result<()> {
    if deltas.len() < 2 {
        return Err(EngineError::InvalidInput(format!(
            "a merge takes at least 2 deltas, got {}",
            deltas.len()
        )));
    }
    let mut names = HashSet::new();
    for concept in deltas {
        concept.delta.check_base(base)?;
        for learnt in &concept.delta.concepts {
            let name = match &learnt.modifier_token {
                Some(token) => token.to_string(),
                None => learnt.class_noun.clone(),
            };
            if !names.insert(name.clone()) {
                let text = format!(
                    "two of the deltas both teach `{name}`: leave one out, or train them jointly"
                );
                return Err(EngineError::InvalidInput(text));
            }
        }
    }
    Ok(())
}
