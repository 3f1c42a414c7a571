//! Cases of kinds `train_gradients` and `train_steps`.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use serde_json::Value;
use vstar::domain::training::TrainingRecipe;
use vstar::engine::schedulers::PredictionType;
use vstar::engine::unet::Activations;
use vstar::engine::{Batch, Method, Objective, Parameters, Trainer, loss_gradient};

use super::{Case, Measured, compare, compare_norm, compare_number};

pub(crate) fn train_gradients(case: &Case<'_>) -> Result<Vec<Measured>> {
    let base = case.model.base()?;
    let recipe = TrainingRecipe {
        detach_first_token: case.bool("detach_first_token")?,
        ..TrainingRecipe::paper()
    };
    let mut parameters = Parameters::new(base.into(), initial_rows(case)?, &recipe)?;
    let objective = Objective {
        prediction_type: prediction_type(case)?,
        prior_loss_weight: case.f64("prior_loss_weight")?,
        activations: Activations::Keep,
    };

    let batch = batch(case, case.json)?;
    let gradient = loss_gradient(&mut parameters, base.into(), &batch, objective)?;
    let [projections, modifier_rows] = gradient.gradients.as_slice() else {
        bail!(
            "{} gradients, expected those of projections and modifier rows",
            gradient.gradients.len()
        )
    };

    let tolerance = case.tolerance()?;
    let mut measured =
        vec![compare_number("loss", gradient.loss.into(), case.f64("loss")?, tolerance)];
    let ours = parameters.by_name(projections)?;
    for (name, reference) in named_tensors(case, "gradients")? {
        let ours = ours.get(&name).with_context(|| format!("no gradient for `{name}`"))?;
        measured.push(compare(&name, ours, &reference, tolerance)?);
    }
    measured.push(case.compare("token_gradients", modifier_rows)?);
    Ok(measured)
}

pub(crate) fn train_steps(case: &Case<'_>) -> Result<Vec<Measured>> {
    let base = case.model.base()?;
    let optimizer = &case.json["optimizer"];
    let number = |key: &str| {
        optimizer[key].as_f64().with_context(|| format!("`optimizer.{key}` is not a number"))
    };
    ensure!(number("weight_decay_modifier_tokens")? <= 0.0, "modifier rows do not decay here");
    let recipe = TrainingRecipe {
        prior_loss_weight: case.f64("prior_loss_weight")?,
        detach_first_token: case.bool("detach_first_token")?,
        weight_decay: number("weight_decay")?,
        max_grad_norm: number("max_grad_norm")?,
        token_learning_rate_factor: 1.0,
        ..TrainingRecipe::paper()
    };
    let before = initial_rows(case)?.context("the case has no modifier token")?;
    let parameters = Parameters::new(base.into(), Some(before.clone()), &recipe)?;
    let initial = parameters.by_name(parameters.parameters()[0].value)?;
    let mut trainer = Trainer::new(parameters, base.into(), &recipe)?;

    let batches = case.json["batches"].as_array().context("`batches` is not a list")?;
    let losses = case.json["losses"].as_array().context("`losses` is not a list")?;
    ensure!(batches.len() == losses.len(), "{} batches, {} losses", batches.len(), losses.len());
    let tolerance = case.tolerance()?;
    let mut measured = Vec::new();
    for (step, (json, loss)) in batches.iter().zip(losses).enumerate() {
        let report = trainer.step(base.into(), &batch(case, json)?, number("learning_rate")?)?;
        let loss = loss.as_f64().context("a loss is not a number")?;
        measured.push(compare_number(&format!("loss {step}"), report.loss.into(), loss, tolerance));
        if let Some(norm) = json["grad_norm"].as_f64() {
            measured.push(compare_number(
                &format!("grad_norm {step}"),
                report.grad_norm,
                norm,
                tolerance,
            ));
        }
    }

    let parameters = trainer.method;
    let after = parameters.by_name(parameters.parameters()[0].value)?;
    for (name, reference) in named_tensors(case, "weights")? {
        let initial = initial.get(&name).with_context(|| format!("no weight `{name}`"))?;
        let (ours, reference) = ((&after[&name] - initial)?, (reference - initial)?);
        measured.push(compare_norm(&name, &ours, &reference, tolerance)?);
    }
    let rows = parameters.modifier_rows.context("no modifier rows")?;
    let reference = case.input("modifier_token_rows")?;
    measured.push(compare_norm(
        "modifier_token_rows",
        &(rows - &before)?,
        &(reference - &before)?,
        tolerance,
    )?);
    Ok(measured)
}

/// The embedding rows of `initializer_token_ids`.
fn initial_rows(case: &Case<'_>) -> Result<Option<Tensor>> {
    let base = case.model.base()?;
    let ids = case.json["initializer_token_ids"]
        .as_array()
        .context("`initializer_token_ids` is not a list")?;
    let mut rows = Vec::new();
    for id in ids {
        rows.extend(
            base.prompt_encoder
                .embedding_row(id.as_u64().context("an id is not a number")? as u32)?,
        );
    }
    if ids.is_empty() {
        return Ok(None);
    }
    let width = rows.len() / ids.len();
    Ok(Some(Tensor::from_vec(rows, (ids.len(), width), case.model.device())?))
}

fn batch(case: &Case<'_>, json: &Value) -> Result<Batch> {
    let case = Case { model: case.model, json };
    let flags = json["is_class_image"].as_array().context("`is_class_image` is not a list")?;
    let latents = case.input("latents")?;
    let (elements, _, height, width) = latents.dims4()?;
    Ok(Batch {
        noise: case.input("noise")?,
        timesteps: case.tensor("timesteps")?.to_dtype(DType::U32)?.to_vec1()?,
        input_ids: case.ids("input_ids")?,
        mask: case.input("mask")?.reshape((elements, 1, height, width))?,
        is_class_image: flags.iter().map(|flag| flag.as_bool().unwrap_or_default()).collect(),
        latents,
    })
}

fn prediction_type(case: &Case<'_>) -> Result<PredictionType> {
    Ok(serde_json::from_value(case.json["prediction_type"].clone())?)
}

/// The recorded tensors of an object `{weight name: tensor name}`.
fn named_tensors(case: &Case<'_>, key: &str) -> Result<Vec<(String, Tensor)>> {
    let names = case.json[key].as_object().with_context(|| format!("`{key}` is not an object"))?;
    ensure!(
        names.len() == 2 * case.model.base()?.unet.cross_attention().len(),
        "`{key}` misses weights"
    );
    names
        .iter()
        .map(|(name, tensor)| {
            let tensor =
                case.model.tensor(tensor.as_str().context("a tensor's name is not a string")?)?;
            Ok((name.clone(), tensor.to_dtype(DType::F32)?.to_device(case.model.device())?))
        })
        .collect()
}
