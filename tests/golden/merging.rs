//! Cases of kind `merge`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use vstar::engine::custom_diffusion::closed_form::{Regularization, Targets, solve};

use super::{Case, Measured, compare};

pub(crate) fn merge(case: &Case<'_>) -> Result<Vec<Measured>> {
    let base = case.model.base()?;
    let mut matrices = BTreeMap::new();
    for layer in base.unet.cross_attention() {
        for (part, weight) in [("to_k", &layer.to_k), ("to_v", &layer.to_v)] {
            let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
            matrices.insert(format!("{}.{part}.weight", layer.name), weight);
        }
    }
    let features =
        case.json["target_features"].as_array().context("`target_features` is not a list")?;
    let features = features
        .iter()
        .map(|name| {
            Ok(case.model.tensor(name.as_str().context("not a name")?)?.to_dtype(DType::F64)?)
        })
        .collect::<Result<Vec<_>>>()?;
    let deltas = case.json["deltas"].as_array().context("`deltas` is not a list")?;

    let mut changes = BTreeMap::new();
    for (name, weight) in &matrices {
        let parts = deltas
            .iter()
            .zip(&features)
            .map(|(delta, features)| {
                let learnt = tensor(case, delta, name)?.to_dtype(DType::F64)?;
                Ok((learnt - weight)?.matmul(&features.t()?)?)
            })
            .collect::<Result<Vec<_>>>()?;
        changes.insert(name.clone(), Tensor::cat(&parts, 1)?);
    }
    let targets = Targets { features: Tensor::cat(&features, 0)?, changes };
    let regularization = Regularization::new(&case.tensor("regularization_features")?)?;

    let solution = solve(&regularization, &targets, case.json["constraint_weight"].as_f64())?;

    let mut measured = Vec::new();
    for (name, weight) in &matrices {
        let merged = (weight.to_dtype(DType::F32)? + solution.e[name].matmul(&solution.p)?)?;
        measured.push(compare(
            name,
            &merged,
            &tensor(case, &case.json["weights"], name)?,
            case.tolerance()?,
        )?);
    }
    Ok(measured)
}

/// The tensor that an object `{weight name: tensor name}` names for one weight.
fn tensor(case: &Case<'_>, names: &Value, weight: &str) -> Result<Tensor> {
    case.model.tensor(names[weight].as_str().with_context(|| format!("no name for `{weight}`"))?)
}
