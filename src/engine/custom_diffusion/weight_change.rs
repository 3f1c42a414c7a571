//! How far a delta is from the base model: the paper's Figure 3.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::delta::Delta;
use crate::domain::training_report::{TokenChange, TrainingReport, WeightChange};
use crate::engine::base_model::BaseModel;
use crate::engine::error::Result;

/// `‖W′ − W‖ / ‖W‖` of every matrix of a delta and of its modifier tokens' rows.
///
/// - `starts`: the vocabulary entry that each modifier token started from
///
/// # Errors
/// Those of [`DeltaWeights::densify`](super::delta::DeltaWeights::densify) for a delta of another base model.
pub fn weight_change(base: &BaseModel, delta: &Delta, starts: &[String]) -> Result<TrainingReport> {
    let mut own = BTreeMap::new();
    for layer in base.unet.cross_attention() {
        own.insert(format!("{}.to_k.weight", layer.name), layer.to_k.clone());
        own.insert(format!("{}.to_v.weight", layer.name), layer.to_v.clone());
    }
    let mut weights = Vec::new();
    for (name, changed) in delta.weights.densify(&own)? {
        let Some(weight) = own.get(&name) else { continue };
        let change = relative(&values(&changed)?, &values(weight)?).unwrap_or_default();
        weights.push(WeightChange { weight: name, change });
    }
    let mut tokens = Vec::new();
    let mut starts = starts.iter();
    for concept in &delta.concepts {
        let (Some(token), Some(row)) = (&concept.words.modifier_token, &concept.embedding_row)
        else {
            continue;
        };
        let name = starts.next();
        let start = match name {
            Some(name) => Some(base.prompt_encoder.initializer_row(name)?),
            None => None,
        };
        tokens.push(TokenChange {
            modifier_token: token.clone(),
            initializer_token: name.cloned(),
            change: start.and_then(|start| relative(row, &start)),
            binding_gain: None,
            binds: None,
        });
    }
    Ok(TrainingReport { weight_change: weights, token_change: tokens })
}

fn values(matrix: &Tensor) -> Result<Vec<f32>> {
    Ok(matrix.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// `‖a − b‖ / ‖b‖`; `None` if `b` is 0.
fn relative(a: &[f32], b: &[f32]) -> Option<f64> {
    let moved: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let length: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    (length > 0.0).then(|| (moved / length).sqrt())
}

#[cfg(test)]
mod tests {
    use super::relative;

    #[test]
    fn a_change_is_relative_to_the_length_before() {
        assert_eq!(relative(&[3.0, 8.0], &[0.0, 4.0]), Some(1.25));
        assert_eq!(relative(&[1.0], &[0.0]), None);
    }
}
