//! What a service needs on this machine, and what is missing of it. Nothing is made or changed.

use anyhow::{Error, Result};

use super::checks;
use crate::config::Settings;
use crate::engine::device::device_named;
use crate::postgres::PostgresError;

/// One thing that a service needs, and what was found of it.
#[derive(Debug)]
pub struct Checked {
    /// Its name, such as `Postgres`.
    pub what: &'static str,
    /// What is there; or what is wrong, and the remedy.
    pub found: Result<String>,
    /// Whether a service with these settings can do without it.
    pub is_optional: bool,
}

/// Looks for everything that the settings name.
pub async fn examine(settings: &Settings) -> Vec<Checked> {
    let files = settings.clone();
    let files = tokio::task::spawn_blocking(move || examine_files(&files));
    let (files, database, objects) =
        tokio::join!(files, examine_database(settings), examine_objects(settings));
    let needed = |what, found| Checked { what, found, is_optional: false };
    let mut checked = vec![needed("Postgres", database), needed("object store", objects)];
    match files {
        Ok(files) => checked.extend(files),
        Err(error) => checked.push(needed("files", Err(error.into()))),
    }
    checked
}

async fn examine_database(settings: &Settings) -> Result<String> {
    match checks::database_of(settings).await {
        Ok(()) if settings.database_url.is_some() => {
            Ok("the one of DATABASE_URL answers".to_owned())
        }
        Ok(()) => Ok(format!("binaries are here; a private one is kept in {}", shown(settings))),
        // A service that runs is the best proof.
        Err(error) => match error.downcast_ref::<PostgresError>() {
            Some(PostgresError::InUse { holder, .. }) => {
                Ok(format!("a private one serves {holder}"))
            }
            Some(_) | None => Err(error),
        },
    }
}

async fn examine_objects(settings: &Settings) -> Result<String> {
    match &settings.object_store {
        Some(place) => {
            checks::object_store_at(place).await?;
            Ok(format!("{place} can be written to"))
        }
        None => {
            checks::data_dir(settings)?;
            Ok(format!("a folder below {}", shown(settings)))
        }
    }
}

fn shown(settings: &Settings) -> String {
    settings.data_dir.display().to_string()
}

fn examine_files(settings: &Settings) -> Vec<Checked> {
    let model = settings.base_model_dir().map_err(Error::msg).and_then(|dir| {
        checks::base_model(dir.clone())?;
        Ok(dir.display().to_string())
    });
    let evaluator = match settings.evaluator_dir() {
        Ok(Some(dir)) => checks::evaluator(dir.clone()).map(|()| dir.display().to_string()),
        Err(error) if settings.evaluator.is_some() => Err(Error::msg(error)),
        Ok(None) | Err(_) => Err(Error::msg(
            "there is no CLIP model beside the base model: --evaluator names one; without it, nothing is evaluated",
        )),
    };
    let device = checks::device(settings).map(|()| settings.device.clone());
    let mut checked = vec![
        Checked { what: "model folder", found: model, is_optional: false },
        Checked { what: "evaluator", found: evaluator, is_optional: settings.evaluator.is_none() },
        Checked { what: "device", found: device, is_optional: false },
    ];
    if settings.device == "cpu" {
        let gpu = device_named("cuda:0").map_err(Error::from);
        let found = gpu.map(|_| "cuda:0 can be used: --device cuda:0".to_owned());
        checked.push(Checked { what: "GPU", found, is_optional: true });
    }
    checked
}
