//! Cases of kind `sample`.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use serde_json::Value;
use vstar::domain::sample::Determinism;
use vstar::engine::{
    BaseModel, ConceptSet, ConceptUse, Delta, DeltaWeights, DenoisingState, Flow, KeyValues,
    PromptKeyValues, SampleRequest, denoise,
};

use super::{Case, Measured, schedulers::scheduler_of};

/// All requests of a case go through the UNet in one batch, each with its own delta.
pub(crate) fn sample(case: &Case<'_>) -> Result<Vec<Measured>> {
    let base = case.model.base()?;
    let (scheduler, config, eta) = scheduler_of(case)?;
    let deltas = case.json["deltas"].as_array().context("`deltas` is not a list")?;
    let deltas = deltas.iter().map(|delta| dense(case, delta)).collect::<Result<Vec<_>>>()?;
    let requests = case.json["requests"].as_array().context("`requests` is not a list")?;
    let init_latents = case.input("init_latents")?;
    let (_, _, height, width) = init_latents.dims4()?;

    let state = |(i, request): (usize, &Value)| -> Result<DenoisingState> {
        let delta = request["delta"].as_u64().map(|at| deltas[at as usize].clone());
        let request = SampleRequest {
            prompt: request["prompt"].as_str().context("`prompt` is not a string")?.to_owned(),
            negative_prompt: request["negative_prompt"].as_str().unwrap_or_default().to_owned(),
            concepts: delta.into_iter().map(|delta| ConceptUse { delta, strength: 1.0 }).collect(),
            seed: 0,
            image_index: 0,
            num_inference_steps: case.usize("num_inference_steps")?,
            guidance_scale: case.f64("guidance_scale")?,
            unconditional_strength: 1.0,
            guidance_interval: [0.0, 1.0],
            scheduler,
            eta,
            width: width * base.vae.factor(),
            height: height * base.vae.factor(),
            init: None,
            determinism: Determinism::Strict,
        };
        let latents: Vec<f32> = init_latents.get(i)?.flatten_all()?.to_vec1()?;
        let prompts = prompts(base, &request)?;
        Ok(DenoisingState::start(base, &config, &request, prompts, latents)?)
    };
    let states = requests.iter().enumerate().map(state).collect::<Result<Vec<_>>>()?;

    let states = denoise(base, states, &mut |_, _| Flow::Continue)?;

    let images = states.iter().map(|state| Ok(state.decode(base)?)).collect::<Result<Vec<_>>>()?;
    Ok(vec![case.compare("images", &Tensor::stack(&images, 0)?)?])
}

/// Like the sampler, except that prompts beyond the model's limit are cut, as the reference did.
fn prompts(base: &BaseModel, request: &SampleRequest) -> Result<PromptKeyValues> {
    let concepts = ConceptSet::new(base, &request.concepts)?;
    let of_prompt = |prompt: &str| -> Result<KeyValues> {
        Ok(concepts.condition_tokens(base, concepts.tokenize(base, prompt)?)?)
    };
    let negative = match request.is_guided() {
        true => Some(of_prompt(&request.negative_prompt)?),
        false => None,
    };
    Ok(PromptKeyValues { prompt: of_prompt(&request.prompt)?, negative })
}

/// A delta of the case: whole matrices by their names in the checkpoint.
pub(crate) fn dense(case: &Case<'_>, delta: &Value) -> Result<Arc<Delta>> {
    let names = delta.as_object().context("a delta is not an object")?;
    let weight = |(name, tensor): (&String, &Value)| -> Result<(String, Tensor)> {
        let tensor = case.model.tensor(tensor.as_str().context("a weight is not named")?)?;
        Ok((name.clone(), tensor.to_dtype(DType::F32)?))
    };
    Ok(Arc::new(Delta {
        base_digest: case.model.base()?.digest.clone(),
        concepts: Vec::new(),
        weights: DeltaWeights::Dense(names.iter().map(weight).collect::<Result<_>>()?),
        metadata: BTreeMap::new(),
    }))
}
