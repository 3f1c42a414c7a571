//! Every setting, tried before anything is made: what is wrong is said at once, and nothing is left behind.

mod object_store;
mod writable;

use std::path::PathBuf;

use anyhow::{Error, Result, anyhow};

use super::database;
use crate::config::{NetworkPrecision, Settings};
use crate::engine::check_folder;
use crate::engine::device::{computing_in, device_named};
use crate::evaluator::Evaluator;
use crate::postgres::PrivatePostgres;

/// Which settings a command reads beyond its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// The database alone.
    Tables,
    /// An API; a worker in it or not.
    Api { worker: bool },
    /// A worker of a service that runs elsewhere: it shares that one's database and object store.
    WorkerAlone,
}

/// Tries what the settings name, all of it side by side.
///
/// # Errors
/// Everything that is wrong, each with the setting's name and what to do.
pub(super) async fn check(settings: &Settings, used: Use) -> Result<()> {
    let mut wrong = Vec::new();
    let files = files(settings.clone(), used);
    let (files, database, objects) = tokio::join!(
        tokio::task::spawn_blocking(files),
        database(settings, used),
        objects(settings, used)
    );
    wrong.extend(files?);
    wrong.extend(database.err());
    wrong.extend(objects.err());
    all_of(wrong)
}

/// One error is told as it is, several as a list.
fn all_of(mut wrong: Vec<Error>) -> Result<()> {
    match wrong.len() {
        0 => Ok(()),
        1 => Err(wrong.remove(0)),
        count => {
            let lines: Vec<String> = wrong.iter().map(|error| format!("\n- {error:#}")).collect();
            Err(anyhow!("{count} settings are wrong:{}", lines.concat()))
        }
    }
}

async fn database(settings: &Settings, used: Use) -> Result<()> {
    if let Some(url) = &settings.database_url {
        return database::reach(url).await.map(drop);
    }
    if used == Use::WorkerAlone {
        return Err(anyhow!("DATABASE_URL: a worker needs the database of its service"));
    }
    let (data, bin) = (settings.data_dir.join("postgres"), settings.pg_bin.clone());
    tokio::task::spawn_blocking(move || PrivatePostgres::check(&data, bin.as_deref())).await??;
    Ok(())
}

/// Tries the database that an API with these settings would use.
///
/// # Errors
/// A sentence that names the cause and the remedy.
pub(super) async fn database_of(settings: &Settings) -> Result<()> {
    database(settings, Use::Tables).await
}

/// Tries an object store that is named.
///
/// # Errors
/// A sentence that names the cause and the remedy.
pub(super) async fn object_store_at(place: &str) -> Result<()> {
    object_store::check(place).await
}

/// # Errors
/// If the data folder cannot be written to.
pub(super) fn data_dir(settings: &Settings) -> Result<()> {
    writable::check(&settings.data_dir).map_err(|error| error.context("--data-dir"))
}

async fn objects(settings: &Settings, used: Use) -> Result<()> {
    match (&settings.object_store, used) {
        (_, Use::Tables) => Ok(()),
        (Some(place), Use::Api { .. } | Use::WorkerAlone) => object_store::check(place).await,
        (None, Use::Api { .. }) => Ok(()), // below the data folder
        (None, Use::WorkerAlone) => {
            Err(anyhow!("VSTAR_OBJECT_STORE: a worker needs the object store of its service"))
        }
    }
}

/// What lies on this machine.
fn files(settings: Settings, used: Use) -> impl FnOnce() -> Vec<Error> {
    move || {
        let mut wrong = Vec::new();
        let needs_data_dir = settings.database_url.is_none() || settings.object_store.is_none();
        if needs_data_dir && used != Use::WorkerAlone {
            wrong.extend(data_dir(&settings).err());
        }
        if used == Use::Tables {
            return wrong;
        }
        if let Err(error) = settings.base_model_dir().map_err(Error::msg).and_then(base_model) {
            wrong.push(error);
        }
        match settings.evaluator_dir() {
            // One that only happens to lie beside the base model does not keep the service from starting.
            Ok(Some(dir)) if settings.evaluator.is_some() => wrong.extend(evaluator(dir).err()),
            // A missing base model has been told already.
            Ok(_) => {}
            Err(error) if settings.evaluator.is_some() => wrong.push(Error::msg(error)),
            Err(_) => {}
        }
        let has_worker = used == Use::WorkerAlone || used == Use::Api { worker: true };
        if has_worker {
            wrong.extend(device(&settings).err());
        }
        wrong
    }
}

/// # Errors
/// What a worker lacks to use its device as it is told to.
pub(super) fn device(settings: &Settings) -> Result<()> {
    let device =
        device_named(&settings.device).map_err(|error| Error::from(error).context("--device"))?;
    let precision = settings.precision.map(NetworkPrecision::as_str);
    computing_in(&device, precision).map_err(|error| Error::from(error).context("--precision"))?;
    Ok(())
}

/// # Errors
/// What is missing in the folder.
pub(super) fn base_model(dir: PathBuf) -> Result<()> {
    check_folder(&dir).map_err(|error| {
        let dir = dir.display();
        Error::from(error)
            .context(format!("--base-model {dir} is incomplete: give all of a diffusers folder"))
    })
}

/// # Errors
/// What is missing in the folder.
pub(super) fn evaluator(dir: PathBuf) -> Result<()> {
    Evaluator::check_folder(&dir).map_err(|error| {
        let dir = dir.display();
        Error::from(error)
            .context(format!("--evaluator {dir} is incomplete: give all of a transformers folder"))
    })
}
