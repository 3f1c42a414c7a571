//! How far a delta is from the base model: the paper's Figure 3.

use candle_core::{DType, Device, Tensor};

use super::concept::DeltaConcept;
use super::delta::Delta;
use super::delta_weights::kv_weights;
use super::modifier_tokens::TokenStart;
use crate::domain::concept::ModifierToken;
use crate::domain::training_report::{TokenChange, TrainingReport, WeightChange};
use crate::engine::base_model::BaseModel;
use crate::engine::error::Result;

/// `‖W′ − W‖ / ‖W‖` of every matrix of a delta, against the base model, and of modifier tokens' rows.
///
/// - `trained`: the modifier tokens that were trained, and what their rows started from
///
/// # Errors
/// Those of [`DeltaWeights::densify`](super::delta_weights::DeltaWeights::densify) for a delta of another base model.
pub fn weight_change(
    base: &BaseModel,
    delta: &Delta,
    trained: &[(ModifierToken, TokenStart)],
) -> Result<TrainingReport> {
    let own = kv_weights(base.unet.cross_attention());
    let mut weights = Vec::new();
    for (name, changed) in delta.weights.densify(&own)? {
        let Some(weight) = own.get(&name) else { continue };
        let change = relative(&values(&changed)?, &values(weight)?).unwrap_or_default();
        weights.push(WeightChange { weight: name, change });
    }
    let mut tokens = Vec::new();
    for (token, start) in trained {
        let is_its = |concept: &&DeltaConcept| concept.words.modifier_token.as_ref() == Some(token);
        let concept = delta.concepts.iter().find(is_its);
        let Some(row) = concept.and_then(|concept| concept.embedding_row.as_ref()) else {
            continue;
        };
        tokens.push(TokenChange {
            modifier_token: token.clone(),
            initializer_token: start.initializer_token().map(str::to_owned),
            change: relative(row, &start.row(base)?),
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
