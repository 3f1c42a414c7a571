//! Our operations with weights out of a checkpoint: the small steps that all three networks share.

use serde_json::Value;

use super::{
    error::{EngineError, Result},
    ops::{FrozenConv2d, FrozenLinear, FrozenWeight, Geglu, GroupNorm, LayerNorm, Padding},
    weights::Weights,
};

/// `weight` `(rows, columns)` and `bias` `(rows,)`.
pub(crate) fn linear(weights: &Weights<'_>, rows: usize, columns: usize) -> Result<FrozenLinear> {
    linear_with(weights, rows, columns, |weight| weight)
}

/// [`linear()`] for products of few rows.
pub(crate) fn linear_of_few_rows(
    weights: &Weights<'_>,
    rows: usize,
    columns: usize,
) -> Result<FrozenLinear> {
    linear_with(weights, rows, columns, FrozenWeight::with_few_rows)
}

fn linear_with(
    weights: &Weights<'_>,
    rows: usize,
    columns: usize,
    prepare: fn(FrozenWeight) -> FrozenWeight,
) -> Result<FrozenLinear> {
    let bias = weights.get("bias", &[rows])?;
    let weight = weights.frozen_matrix("weight", rows, columns)?;
    Ok(FrozenLinear::new(prepare(weight), Some(bias))?)
}

/// `weight` `(rows, columns)` alone.
pub(crate) fn linear_without_bias(
    weights: &Weights<'_>,
    rows: usize,
    columns: usize,
) -> Result<FrozenLinear> {
    Ok(FrozenLinear::new(weights.frozen_matrix("weight", rows, columns)?, None)?)
}

/// `weight` `(out_channels, in_channels, kernel, kernel)` and `bias` `(out_channels,)`.
pub(crate) fn conv(
    weights: &Weights<'_>,
    (out_channels, in_channels): (usize, usize),
    kernel: usize,
    stride: usize,
    padding: Padding,
) -> Result<FrozenConv2d> {
    let weight = weights.frozen("weight", &[out_channels, in_channels, kernel, kernel])?;
    let bias = weights.get("bias", &[out_channels])?;
    Ok(FrozenConv2d::new(weight, Some(bias), stride, padding, weights.precision())?)
}

/// `weight`: `(2 · out_features, in_features)`; `bias`: `(2 · out_features,)`.
pub(crate) fn geglu(
    weights: &Weights<'_>,
    out_features: usize,
    in_features: usize,
) -> Result<Geglu> {
    let weight = weights.frozen_matrix("weight", 2 * out_features, in_features)?;
    Ok(Geglu::new(weight, weights.get("bias", &[2 * out_features])?)?)
}

/// A convolution that keeps height and width.
pub(crate) fn conv_same(
    weights: &Weights<'_>,
    channels: (usize, usize),
    kernel: usize,
) -> Result<FrozenConv2d> {
    conv(weights, channels, kernel, 1, Padding::same(kernel / 2))
}

/// `weight`, `bias`: `(channels,)`.
pub(crate) fn group_norm(
    weights: &Weights<'_>,
    channels: usize,
    groups: usize,
    eps: f64,
) -> Result<GroupNorm> {
    if groups == 0 || !channels.is_multiple_of(groups) {
        let name = format!("{}.weight", weights.prefix());
        return Err(EngineError::WeightShape {
            name,
            expected: vec![groups],
            actual: vec![channels],
        });
    }
    let (weight, bias) = (weights.get("weight", &[channels])?, weights.get("bias", &[channels])?);
    Ok(GroupNorm::new(weight, bias, groups, eps)?)
}

/// `weight`, `bias`: `(dim,)`.
pub(crate) fn layer_norm(weights: &Weights<'_>, dim: usize, eps: f64) -> Result<LayerNorm> {
    Ok(LayerNorm::new(weights.get("weight", &[dim])?, weights.get("bias", &[dim])?, eps)?)
}

/// Fails for a config value that would change the architecture in a way that is not built here.
///
/// A field may be absent or one of `supported`: the default of a field that a newer diffusers adds is what older
/// versions did.
pub(crate) fn require(
    path: &std::path::Path,
    config: &Value,
    field: &str,
    supported: &[Value],
) -> Result<()> {
    match config.get(field) {
        Some(value) if !supported.contains(value) => {
            let known = supported.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
            let reason = format!("`{field}` is {value}, only {known} is supported");
            Err(EngineError::ModelFile { path: path.display().to_string(), reason })
        }
        Some(_) | None => Ok(()),
    }
}
