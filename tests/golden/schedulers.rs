//! Cases of kind `scheduler`.

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use vstar::domain::sample::SchedulerName;
use vstar::engine::schedulers::{Scheduler, SchedulerConfig};

use super::{Case, Measured, compare, compare_number};

pub(crate) fn scheduler(case: &Case<'_>) -> Result<Vec<Measured>> {
    let (name, config, eta) = scheduler_of(case)?;
    let rows = |key: &str| -> Result<Vec<Vec<f32>>> {
        Ok(case.tensor(key)?.to_dtype(DType::F32)?.flatten_from(1)?.to_vec2()?)
    };
    let sample = case.input("sample")?;
    let (model_preds, noises) = (rows("model_preds")?, rows("noises")?);

    let mut scheduler = Scheduler::new(name, &config, case.usize("num_inference_steps")?, eta)?;

    let timesteps = case.json["timesteps"].as_array().context("`timesteps` is not a list")?;
    let timesteps: Vec<f32> =
        timesteps.iter().filter_map(|t| t.as_f64().map(|t| t as f32)).collect();
    let count = timesteps.len();
    let recorded = Tensor::from_vec(timesteps, count, case.model.device())?;
    let ours = Tensor::new(scheduler.timesteps(), case.model.device())?;
    let tolerance = case.tolerance()?;
    let mut measured = vec![
        compare("timesteps", &ours, &recorded, 1e-6)?,
        compare_number(
            "init_noise_sigma",
            scheduler.init_noise_sigma().into(),
            case.f64("init_noise_sigma")?,
            1e-6,
        ),
    ];

    let mut values: Vec<f32> = sample.flatten_all()?.to_vec1()?;
    let mut samples = Vec::new();
    for step in 0..count {
        let noise = scheduler.needs_noise(step).then(|| noises[step].as_slice());
        scheduler.step(step, &model_preds[step], &mut values, noise);
        samples.extend_from_slice(&values);
    }
    let reference = case.tensor("samples")?;
    measured.push(compare(
        "samples",
        &Tensor::from_vec(samples, reference.dims(), case.model.device())?,
        &reference,
        tolerance,
    )?);
    Ok(measured)
}

/// Name, config and η of a case's scheduler; the recorded names say DDIM's η too.
pub(crate) fn scheduler_of(case: &Case<'_>) -> Result<(SchedulerName, SchedulerConfig, f64)> {
    let config: SchedulerConfig = serde_json::from_value(case.json["scheduler_config"].clone())?;
    let (name, eta) = match case.str("scheduler")? {
        "ddim_eta1" => (SchedulerName::Ddim, 1.0),
        name => (serde_json::from_value(name.into())?, 0.0),
    };
    let eta = case.json["step_kwargs"]["eta"].as_f64().unwrap_or(eta);
    Ok((name, config, eta))
}
