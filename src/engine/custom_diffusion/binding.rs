//! Whether a modifier token binds: whether the trained model reads it.
//!
//! A modifier token that does not bind leaves its prompts to the class noun, which the class images keep as it was. The
//! loss curve does not show it. What shows it is the loss on the photos with another row in the token's place: where the
//! token is read, a row that means nothing makes the loss larger.

use candle_core::Tensor;

use super::comparison::Comparison;
use super::parameters::Parameters;
use crate::engine::base_model::BaseModel;
use crate::engine::error::Result;
use crate::engine::key_values::KeyValues;
use crate::engine::training::{Batch, Dataset, Method, TrainingInput};

/// All timesteps: what a concept looks like is decided at high noise, its details at low noise.
const TIMESTEPS: (f64, f64) = (0.0, 1.0);

/// By how much the loss on the photos is larger with another row in place of a modifier token's own, as a fraction: one
/// number for each modifier token.
///
/// - `parameters`: after the training
/// - `others`: the rows to compare with, those of rare tokens; `(modifier tokens, text_dim)`
pub(super) fn gains(
    base: &BaseModel,
    input: &TrainingInput,
    dataset: &Dataset,
    parameters: &mut Parameters,
    others: &Tensor,
) -> Result<Vec<f64>> {
    let comparison = Comparison { base, input, timesteps: TIMESTEPS };
    let tokens = input.modifier_tokens().len();
    let (mut own, mut other) = (vec![0.0; tokens], vec![0.0; tokens]);
    for round in 0..comparison.rounds() {
        let batch = comparison.batch(dataset, round)?;
        let add = |sums: &mut Vec<f64>, parameters: &mut Parameters| -> Result<()> {
            let losses = comparison.losses(&batch, &key_values(base, parameters, &batch)?)?;
            let by_token = comparison.by_token(&batch, &losses);
            sums.iter_mut().zip(by_token).for_each(|(sum, loss)| *sum += loss);
            Ok(())
        };
        add(&mut own, parameters)?;
        let learned = parameters.replace_modifier_rows(Some(others.clone()));
        let added = add(&mut other, parameters);
        parameters.replace_modifier_rows(learned);
        added?;
    }
    Ok(own.into_iter().zip(other).map(|(own, other)| other / own - 1.0).collect())
}

fn key_values(base: &BaseModel, parameters: &mut Parameters, batch: &Batch) -> Result<KeyValues> {
    let (all, _) = parameters.key_values(base.into(), &batch.input_ids)?;
    let layers = base.unet.cross_attention().iter();
    let inner = layers.map(|layer| Ok(layer.to_k.dim(0)?)).collect::<Result<Vec<_>>>()?;
    KeyValues::split(&all.to_dtype(base.unet.dtype())?, &inner)
}
