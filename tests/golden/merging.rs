//! Cases of kind `merge`, on the path that a request takes: packs, a merge of them, keys and values of a prompt.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use vstar::domain::merge::{Constraint, MergeRecipe};
use vstar::engine::{ConceptSet, Merge, MergePack, PackUse, RegularizationStatistics, kv_weights};

use super::sampling::dense;
use super::{Case, Measured, compare};

/// A prompt whose keys and values must be those of the recorded weights.
const PROMPT: &str = "photo of a cat in front of a house";

pub(crate) fn merge(case: &Case<'_>) -> Result<Vec<Measured>> {
    let base = case.model.base()?;
    let recipe = MergeRecipe {
        constraint: match case.json["constraint_weight"].as_f64() {
            Some(constraint_weight) => Constraint::Soft { constraint_weight },
            None => Constraint::Hard,
        },
        captions: None,
        protect: Vec::new(),
    };
    let captions = case.tensor("regularization_features")?;
    let no_rows = Tensor::zeros((0, captions.dim(1)?), DType::F32, &Device::Cpu)?;
    let statistics = RegularizationStatistics::of_features(&captions, &no_rows)?;
    let packs = packs(case, &no_rows)?;

    let merge = Arc::new(Merge::solve(&statistics, &packs, &recipe)?);
    let concepts = ConceptSet::merged(base, merge.clone())?;
    let key_values = concepts.condition_tokens(base, concepts.tokenize(base, PROMPT)?)?;
    let layers = base.unet.cross_attention();
    let merged = merge.weights(layers)?.densify(&kv_weights(layers))?;

    let tokens = base.prompt_encoder.tokenize(PROMPT, &[])?;
    let text = base.prompt_encoder.encode(&[tokens.ids], None)?.squeeze(0)?; // (tokens, text_dim)
    let text = text.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let mut measured = Vec::new();
    for (layer, kv) in layers.iter().zip(&key_values.layers) {
        for (part, ours) in [("to_k", &kv.key), ("to_v", &kv.value)] {
            let name = format!("{}.{part}.weight", layer.name);
            let weight = tensor(case, &case.json["weights"], &name)?;
            measured.push(compare(&name, &merged[&name], &weight, case.tolerance()?)?);
            let projected = text.matmul(&weight.to_dtype(DType::F64)?.t()?)?.unsqueeze(0)?;
            let what = format!("{}.{part} of the prompt", layer.name);
            measured.push(compare(&what, ours, &projected, case.tolerance()?)?);
        }
    }
    Ok(measured)
}

/// The case's deltas with the features at which each is to be kept.
fn packs(case: &Case<'_>, no_rows: &Tensor) -> Result<Vec<PackUse>> {
    let base = case.model.base()?;
    let list =
        |key: &str| case.json[key].as_array().with_context(|| format!("`{key}` is not a list"));
    let pack = |(delta, features): (&Value, &Value)| -> Result<PackUse> {
        let features = features.as_str().context("`target_features` is not a list of names")?;
        let features = case.model.tensor(features)?.to_dtype(DType::F32)?;
        let changes = dense(case, delta)?.change(base, &features)?;
        let pack = MergePack::of_features(features, changes, no_rows.clone());
        Ok(PackUse { pack: Arc::new(pack), strength: 1.0 })
    };
    list("deltas")?.iter().zip(list("target_features")?).map(pack).collect()
}

/// The tensor that an object `{weight name: tensor name}` names for one weight.
fn tensor(case: &Case<'_>, names: &Value, weight: &str) -> Result<Tensor> {
    case.model.tensor(names[weight].as_str().with_context(|| format!("no name for `{weight}`"))?)
}
