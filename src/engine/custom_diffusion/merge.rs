//! Merging deltas over a base model: which features must keep their values, and how well that went.
//!
//! The constraints come from prompts. For every concept, its name in several templates must get the keys and values
//! that its own delta gives it, there up to the end token and at some of the padding, which the UNet attends to as
//! well; for every pair of concepts, the names in a prompt that holds both, since a name's features depend on the
//! words before it. What must stay as the base model has it is protected: the start token, the empty prompt of
//! guidance, and the class nouns on their own.

use std::collections::{BTreeMap, HashSet};

use candle_core::{DType, Device, Tensor};

use crate::engine::base_model::BaseModel;
use crate::engine::conditioning::ConceptUse;
use crate::engine::custom_diffusion::closed_form::{Regularization, Solution, Targets, solve};
use crate::engine::custom_diffusion::delta::{Delta, DeltaConcept, DeltaWeights};
use crate::engine::{EngineError, Result};

/// Prompts in which a concept alone keeps its own keys and values; `{}` is its name.
const TEMPLATES: [&str; 3] = ["{}", "a {}", "photo of a {}"];
/// Prompts in which two concepts do, each by its own name.
const PAIR_TEMPLATES: [&str; 3] =
    ["a {} and a {}", "photo of a {} next to a {}", "a {} in front of a {}"];
/// Padding positions after the end token that are constrained as well.
const PADDING_ROWS: usize = 2;
/// Of so many captions one is kept aside to measure drift on.
const HELD_OUT: usize = 10;
/// Rows closer than this in every component are one constraint.
const SAME_ROW: f32 = 1e-5;

/// What merges over one base model have in common, computed once.
pub struct MergeBase {
    regularization: Regularization,
    /// Features of captions that the regularization has not seen, `(rows, text_dim)`.
    held_out: Tensor,
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

impl MergeBase {
    /// Encodes `captions`, ordinary prompts of the base model's world; some are kept aside.
    pub fn new(base: &BaseModel, captions: &[String]) -> Result<Self> {
        let (mut seen, mut held_out) = (Vec::new(), Vec::new());
        for (index, caption) in captions.iter().enumerate() {
            let ids = base.tokenizer.encode(caption, &[])?.ids;
            if index % HELD_OUT == HELD_OUT - 1 { held_out.push(ids) } else { seen.push(ids) }
        }
        if held_out.is_empty() {
            let text = format!(
                "a merge needs at least {HELD_OUT} regularization captions, got {}",
                captions.len()
            );
            return Err(EngineError::InvalidInput(text));
        }
        Ok(Self {
            regularization: Regularization::new(&caption_rows(base, &seen)?)?,
            held_out: caption_rows(base, &held_out)?,
        })
    }
}

/// Merges several deltas into one whose weights are `E P`, and says how well they go together.
///
/// Each delta's changes count `strength` times. `constraint_weight` is μ; `None` asks for equality.
///
/// # Errors
/// [`EngineError::InvalidInput`] if fewer than two deltas are given, two of them use the same modifier token or teach
/// the same class noun, or equality cannot be had.
pub fn merge(
    base: &BaseModel,
    merge_base: &MergeBase,
    deltas: &[ConceptUse],
    constraint_weight: Option<f64>,
) -> Result<(Delta, MergeDiagnostics)> {
    check(base, deltas)?;
    let rows = target_rows(base, deltas)?;
    let targets = targets(base, deltas, &rows)?;
    let solution = solve(&merge_base.regularization, &targets, constraint_weight)?;

    let mut overlaps = Vec::new();
    for i in 0..deltas.len() {
        for j in i + 1..deltas.len() {
            let own = |delta| rows.of(delta).map(|features| features.to_dtype(DType::F64));
            let overlap = merge_base.regularization.overlap(&own(i)??, &own(j)??)?;
            overlaps.push(((i, j), overlap));
        }
    }
    let diagnostics = MergeDiagnostics {
        constraint_error: constraint_error(&targets, &solution)?,
        drift: drift(base, &merge_base.held_out, &solution)?,
        condition: solution.condition,
        overlaps,
    };
    let constraint =
        constraint_weight.map_or_else(|| "hard".to_owned(), |weight| weight.to_string());
    let delta = Delta {
        base_digest: base.digest.clone(),
        concepts: deltas
            .iter()
            .flat_map(|concept| concept.delta.concepts.iter().cloned())
            .collect(),
        weights: DeltaWeights::LowRank { p: solution.p, e: solution.e },
        metadata: BTreeMap::from([("constraint_weight".to_owned(), constraint)]),
    };
    Ok((delta, diagnostics))
}

fn check(base: &BaseModel, deltas: &[ConceptUse]) -> Result<()> {
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

/// The constraints: rows of text features, and the delta whose values each keeps.
struct TargetRows {
    /// `(rows, text_dim)`, f32 on the CPU.
    features: Tensor,
    /// Index of a delta, or `None` for a row that stays as the base model has it.
    owners: Vec<Option<usize>>,
}

impl TargetRows {
    /// The rows of one delta.
    fn of(&self, delta: usize) -> Result<Tensor> {
        let rows: Vec<u32> = (0..self.owners.len())
            .filter(|&row| self.owners[row] == Some(delta))
            .map(|row| row as u32)
            .collect();
        Ok(self.features.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
    }
}

/// Encodes prompts with the token rows of all deltas at once: features do not depend on who asks.
struct Encoder<'a> {
    base: &'a BaseModel,
    tokens: Vec<&'a str>,
    modifier_rows: Option<Tensor>,
}

impl<'a> Encoder<'a> {
    fn new(base: &'a BaseModel, deltas: &'a [ConceptUse]) -> Result<Self> {
        let mut tokens = Vec::new();
        let mut rows = Vec::new();
        for learnt in deltas.iter().flat_map(|concept| &concept.delta.concepts) {
            if let (Some(token), Some(row)) = (&learnt.modifier_token, &learnt.token_row) {
                tokens.push(token.as_str());
                rows.push(Tensor::new(row.as_slice(), &base.device)?);
            }
        }
        let modifier_rows = if rows.is_empty() { None } else { Some(Tensor::stack(&rows, 0)?) };
        Ok(Self { base, tokens, modifier_rows })
    }

    fn ids(&self, prompt: &str) -> Result<Vec<u32>> {
        Ok(self.base.tokenizer.encode(prompt, &self.tokens)?.ids)
    }

    /// The ids of a name, without the marks around it.
    fn name_ids(&self, name: &str) -> Result<Vec<u32>> {
        let encoded = self.base.tokenizer.encode(name, &self.tokens)?;
        let end = encoded.length.min(encoded.ids.len()).saturating_sub(1);
        Ok(encoded.ids[1..end.max(1)].to_vec())
    }

    /// Features of one prompt, one vector per position.
    fn features(&self, ids: Vec<u32>) -> Result<Vec<Vec<f32>>> {
        let features = self.base.text_encoder.forward(&[ids], self.modifier_rows.as_ref())?;
        Ok(features.squeeze(0)?.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2()?)
    }
}

fn target_rows(base: &BaseModel, deltas: &[ConceptUse]) -> Result<TargetRows> {
    let encoder = Encoder::new(base, deltas)?;
    let concepts: Vec<(usize, &DeltaConcept)> = deltas
        .iter()
        .enumerate()
        .flat_map(|(delta, concept)| {
            concept.delta.concepts.iter().map(move |learnt| (delta, learnt))
        })
        .collect();
    let mut rows = Vec::new();

    for &(delta, learnt) in &concepts {
        for template in TEMPLATES {
            let ids = encoder.ids(&template.replace("{}", &name(learnt)))?;
            let name_ids = encoder.name_ids(&name(learnt))?;
            let start = find(&ids, &name_ids, 0);
            let end = (start + name_ids.len() + 1 + PADDING_ROWS).min(ids.len()); // up to the end mark, and padding
            let features = encoder.features(ids)?;
            rows.extend(features[start..end].iter().map(|row| (Some(delta), row.clone())));
        }
    }
    for (i, &(first_delta, first)) in concepts.iter().enumerate() {
        for (j, &(second_delta, second)) in concepts.iter().enumerate() {
            if i == j || first_delta == second_delta {
                continue;
            }
            for template in PAIR_TEMPLATES {
                let prompt =
                    template.replacen("{}", &name(first), 1).replacen("{}", &name(second), 1);
                let ids = encoder.ids(&prompt)?;
                let mut start = 0;
                let features = encoder.features(ids.clone())?;
                for (delta, learnt) in [(first_delta, first), (second_delta, second)] {
                    let name_ids = encoder.name_ids(&name(learnt))?;
                    start = find(&ids, &name_ids, start);
                    let end = (start + name_ids.len()).min(ids.len());
                    rows.extend(features[start..end].iter().map(|row| (Some(delta), row.clone())));
                    start = end;
                }
            }
        }
    }
    // The start token is the first row of every prompt: the empty one brings it along.
    rows.extend(encoder.features(encoder.ids("")?)?.into_iter().map(|row| (None, row)));
    for (_, learnt) in &concepts {
        if learnt.modifier_token.is_some() {
            let name_ids = encoder.name_ids(&learnt.class_noun)?;
            for template in TEMPLATES {
                let ids = encoder.ids(&template.replace("{}", &learnt.class_noun))?;
                let start = find(&ids, &name_ids, 0);
                let end = (start + name_ids.len() + 1).min(ids.len());
                rows.extend(
                    encoder.features(ids)?[start..end].iter().map(|row| (None, row.clone())),
                );
            }
        }
    }
    distinct(rows)
}

/// How prompts name the concept.
fn name(learnt: &DeltaConcept) -> String {
    match &learnt.modifier_token {
        Some(token) => format!("{token} {}", learnt.class_noun),
        None => learnt.class_noun.clone(),
    }
}

/// Where `part` begins in `ids`, from position `from` on; the first position after the start mark if nowhere.
fn find(ids: &[u32], part: &[u32], from: usize) -> usize {
    let from = from.max(1);
    (from..ids.len())
        .find(|&start| ids[start..].starts_with(part))
        .unwrap_or(from)
        .min(ids.len() - 1)
}

/// Keeps the first of rows that are the same; what concepts ask for comes before what is protected.
fn distinct(rows: Vec<(Option<usize>, Vec<f32>)>) -> Result<TargetRows> {
    let mut kept: Vec<(Option<usize>, Vec<f32>)> = Vec::new();
    for (owner, row) in rows {
        let same = |known: &Vec<f32>| known.iter().zip(&row).all(|(a, b)| (a - b).abs() < SAME_ROW);
        if !kept.iter().any(|(_, known)| same(known)) {
            kept.push((owner, row));
        }
    }
    let width = kept.first().map_or(0, |(_, row)| row.len());
    let (owners, rows): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
    let features = Tensor::from_vec(rows.concat(), (owners.len(), width), &Device::Cpu)?;
    Ok(TargetRows { features, owners })
}

/// `E = strength · (W − W₀) Cᵀ` with each row's own `W`; zero for protected rows.
fn targets(base: &BaseModel, deltas: &[ConceptUse], rows: &TargetRows) -> Result<Targets> {
    let features = rows.features.to_dtype(DType::F64)?;
    let columns = features.t()?.contiguous()?; // (text_dim, rows)
    // For each delta, 1 at its rows.
    let masks = (0..deltas.len())
        .map(|delta| {
            let mask: Vec<f64> = rows
                .owners
                .iter()
                .map(|&owner| f64::from(u8::from(owner == Some(delta))))
                .collect();
            Ok(Tensor::new(mask, &Device::Cpu)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let dense =
        deltas.iter().map(|concept| concept.delta.densify(base)).collect::<Result<Vec<_>>>()?;
    let mut changes = BTreeMap::new();
    for layer in base.unet.cross_attention() {
        for (part, weight) in [("to_k", &layer.to_k), ("to_v", &layer.to_v)] {
            let name = format!("{}.{part}.weight", layer.name);
            let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            let mut sum =
                Tensor::zeros((weight.dim(0)?, rows.owners.len()), DType::F64, &Device::Cpu)?;
            for ((concept, dense), mask) in deltas.iter().zip(&dense).zip(&masks) {
                let change = (dense[&name].to_dtype(DType::F64)? - &weight)?.matmul(&columns)?;
                sum = (sum + (change.broadcast_mul(mask)? * concept.strength)?)?;
            }
            changes.insert(name, sum);
        }
    }
    Ok(Targets { features, changes })
}

fn constraint_error(targets: &Targets, solution: &Solution) -> Result<f64> {
    let columns = targets.features.to_dtype(DType::F32)?.t()?;
    let (mut error, mut scale) = (0.0, 0.0);
    for (name, change) in &targets.changes {
        let change = change.to_dtype(DType::F32)?;
        let got = solution.e[name].matmul(&solution.p.matmul(&columns)?)?;
        error += square_sum(&(got - &change)?)?;
        scale += square_sum(&change)?;
    }
    Ok((error / scale.max(f64::MIN_POSITIVE)).sqrt())
}

fn drift(base: &BaseModel, held_out: &Tensor, solution: &Solution) -> Result<f64> {
    let columns = held_out.t()?;
    let shared = solution.p.matmul(&columns)?; // (rows, captions' rows)
    let (mut moved, mut scale) = (0.0, 0.0);
    for layer in base.unet.cross_attention() {
        for (part, weight) in [("to_k", &layer.to_k), ("to_v", &layer.to_v)] {
            let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            moved +=
                square_sum(&solution.e[&format!("{}.{part}.weight", layer.name)].matmul(&shared)?)?;
            scale += square_sum(&weight.matmul(&columns)?)?;
        }
    }
    Ok((moved / scale.max(f64::MIN_POSITIVE)).sqrt())
}

fn square_sum(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar()?)
}

/// The features of captions at all positions but the start token's, `(rows, text_dim)`, f32 on the CPU.
fn caption_rows(base: &BaseModel, captions: &[Vec<u32>]) -> Result<Tensor> {
    let mut rows = Vec::new();
    for chunk in captions.chunks(32) {
        let features = base
            .text_encoder
            .forward(chunk, None)?
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?;
        let (_, tokens, _) = features.dims3()?;
        rows.push(features.narrow(1, 1, tokens - 1)?.contiguous()?.flatten(0, 1)?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}
