//! The base model and the evaluator of a process.

use anyhow::{Context, Result};

use crate::config::{NetworkPrecision, Settings};
use crate::delta_store::{BaseModelRef, DeltaStore};
use crate::evaluator::Evaluator;
use crate::model_folder::ModelFolder;
use crate::storage::Storage;
use crate::worker::LoadedModel;

/// The device on which an API evaluates texts.
pub(super) const CPU: &str = "cpu";

/// The base model, as far as a process needs it.
pub(super) enum Model {
    /// For an API without a worker: no weights.
    Folder(ModelFolder),
    Loaded(Box<LoadedModel>),
}

impl Model {
    pub(super) async fn open(settings: &Settings, with_weights: bool) -> Result<Self> {
        Ok(match with_weights {
            true => Self::Loaded(Box::new(load_model(settings).await?)),
            false => Self::Folder(open_model(settings).await?),
        })
    }

    pub(super) fn folder(&self) -> &ModelFolder {
        match self {
            Self::Folder(folder) => folder,
            Self::Loaded(model) => &model.folder,
        }
    }
}

/// Puts the class images where every worker finds them.
pub(super) async fn publish(folder: &ModelFolder, storage: &Storage) -> Result<()> {
    let published = folder.publish_class_images(storage).await;
    published.context("the base model's class images cannot be stored")
}

pub(super) fn delta_store(
    storage: &Storage,
    folder: &ModelFolder,
    settings: &Settings,
) -> DeltaStore {
    let budget_bytes = settings.worker.delta_cache_mib << 20;
    DeltaStore::new(storage.clone(), BaseModelRef::from(folder), budget_bytes)
}

async fn open_model(settings: &Settings) -> Result<ModelFolder> {
    let dir = settings.base_model_dir().map_err(anyhow::Error::msg)?;
    limit_threads(settings);
    tracing::info!(dir = %dir.display(), "reading the base model's folder");
    let shown = dir.display().to_string();
    tokio::task::spawn_blocking(move || ModelFolder::open(&dir))
        .await?
        .with_context(|| format!("the base model {shown} cannot be read"))
}

fn limit_threads(settings: &Settings) {
    if let Some(threads) = settings.threads {
        // Fails only if the pool is there already; then the first setting stays.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build_global();
    }
}

pub(super) async fn load_model(settings: &Settings) -> Result<LoadedModel> {
    let dir = settings.base_model_dir().map_err(anyhow::Error::msg)?;
    let device = settings.device.clone();
    let precision = settings.precision.map(NetworkPrecision::as_str);
    limit_threads(settings);
    tracing::info!(dir = %dir.display(), device, "loading the base model");
    let shown = dir.display().to_string();
    tokio::task::spawn_blocking(move || LoadedModel::load(&dir, &device, precision))
        .await?
        .with_context(|| format!("the base model {shown} does not load"))
}

/// The evaluator on a device; `None` without one.
///
/// # Errors
/// If the folder that the settings name does not load. A folder that only happens to lie beside the base model's must not
/// keep the service from starting: then evaluations are refused, and the log says why.
pub(super) async fn load_evaluator(settings: &Settings, device: &str) -> Result<Option<Evaluator>> {
    let Some(dir) = settings.evaluator_dir().map_err(anyhow::Error::msg)? else {
        tracing::info!("no evaluator: evaluations are refused, --evaluator gives one");
        return Ok(None);
    };
    let (shown, device) = (dir.display().to_string(), device.to_owned());
    tracing::info!(dir = shown, device, "loading the evaluator");
    let loaded = tokio::task::spawn_blocking(move || Evaluator::load(&dir, &device)).await?;
    match loaded {
        Ok(evaluator) => {
            let unread = evaluator.unread_weights();
            if !unread.is_empty() {
                tracing::warn!(
                    dir = shown,
                    weights = unread.join(", "),
                    "the evaluator's folder has weights that nothing reads"
                );
            }
            Ok(Some(evaluator))
        }
        Err(error) if settings.evaluator.is_none() => {
            let error = format!("{:#}", anyhow::Error::from(error));
            tracing::warn!(
                dir = shown,
                error,
                "no evaluator: the folder beside the base model does not load"
            );
            Ok(None)
        }
        Err(error) => Err(error).with_context(|| format!("the evaluator {shown} does not load")),
    }
}
