//! Cases of kinds `tokenize`, `text_encoder`, `vae_encode`, `vae_decode` and `unet`.

use anyhow::{Context, Result};
use candle_core::DType;
use vstar::engine::clip::ClipTokenizer;

use super::{Case, Measured};

/// Ids are equal or not: the error is the number of positions that differ, the bound is 0.
pub(crate) fn tokenize(case: &Case<'_>) -> Result<Vec<Measured>> {
    let tokenizer = ClipTokenizer::load(&case.model.folder().join("tokenizer"))?;
    let added: Vec<&str> = match case.json.get("added_tokens") {
        Some(added) => {
            added.as_array().into_iter().flatten().filter_map(|token| token.as_str()).collect()
        }
        None => Vec::new(),
    };
    let recorded = case.json["input_ids"].as_array().context("`input_ids` is not a list")?;
    let recorded: Vec<u32> =
        recorded.iter().filter_map(|id| id.as_u64().map(|id| id as u32)).collect();

    let ids = tokenizer.encode(case.str("prompt")?, &added)?.ids;

    let differing = ids.iter().zip(&recorded).filter(|(a, b)| a != b).count()
        + ids.len().abs_diff(recorded.len());
    Ok(vec![Measured { what: "input_ids".to_owned(), error: differing as f64, tolerance: 0.0 }])
}

pub(crate) fn text_encoder(case: &Case<'_>) -> Result<Vec<Measured>> {
    let ids = case.ids("input_ids")?;

    let hidden_states = case.model.base()?.prompt_encoder.encode(&ids, None)?;

    Ok(vec![case.compare("last_hidden_state", &hidden_states)?])
}

pub(crate) fn vae_encode(case: &Case<'_>) -> Result<Vec<Measured>> {
    let image = case.input("image")?;

    let posterior = case.model.base()?.vae.encode(&image)?;

    Ok(vec![case.compare("mean", &posterior.mean)?, case.compare("std", &posterior.std)?])
}

pub(crate) fn vae_decode(case: &Case<'_>) -> Result<Vec<Measured>> {
    let latent = case.input("latent")?;

    let image = case.model.base()?.vae.decode(&latent)?;

    Ok(vec![case.compare("image", &image)?])
}

pub(crate) fn unet(case: &Case<'_>) -> Result<Vec<Measured>> {
    let base = case.model.base()?;
    let timesteps: Vec<f32> = case.tensor("timesteps")?.to_dtype(DType::F32)?.to_vec1()?;
    let key_values = base.unet.project(&case.input("encoder_hidden_states")?)?;

    let model_pred = base.unet.forward(&case.input("sample")?, &timesteps, &key_values)?;

    Ok(vec![case.compare("model_pred", &model_pred)?])
}
