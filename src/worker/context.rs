//! What jobs work with: the resources of a worker, without its loop.

use std::sync::Arc;

use sqlx::PgPool;
use tokio::sync::Semaphore;

use super::config::WorkerConfig;
use super::device::{DeviceSettings, DeviceThread};
use super::engine::LoadedModel;
use super::error::JobError;
use super::permits::PermitPool;
use crate::class_images::ClassImageSet;
use crate::delta_store::DeltaStore;
use crate::domain::digest::Digest;
use crate::domain::model_info::ModelInfo;
use crate::evaluator::Evaluator;
use crate::storage::Storage;

/// The resources of a worker.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) db: PgPool,
    pub(crate) storage: Storage,
    pub(crate) deltas: DeltaStore,
    pub(crate) device: DeviceThread,
    pub(crate) permits: Arc<PermitPool>,
    /// Permits to have an image of a user in memory as it was uploaded: as many as there are cores.
    pub(crate) decoders: Arc<Semaphore>,
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) model: Arc<ModelInfo>,
    /// Those of the worker's own folder.
    pub(crate) class_images: Arc<ClassImageSet>,
    /// Without one, evaluations are left to other workers.
    pub(crate) evaluator: Option<Evaluator>,
    /// Memory that jobs can have. Those that need more are left to other workers.
    pub(crate) memory_mib: Option<i32>,
}

impl Context {
    /// Takes over a loaded model.
    ///
    /// # Errors
    /// If the device's thread cannot be started.
    pub(crate) fn new(
        db: PgPool,
        storage: Storage,
        deltas: DeltaStore,
        model: LoadedModel,
        config: WorkerConfig,
    ) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let LoadedModel { folder, engine, evaluator } = model;
        let max_batch_size = config.max_batch_size.unwrap_or_else(|| engine.max_batch_size());
        let max_batch_size = max_batch_size.max(1);
        let evaluator_name = evaluator.as_ref().map(|evaluator| evaluator.info().name.as_str());
        tracing::info!(
            max_batch_size,
            training_share = config.training_share,
            evaluator = evaluator_name,
            "the worker begins"
        );
        let memory_mib = engine.memory_mib();
        let settings = DeviceSettings {
            max_batch_size,
            training_share: config.training_share,
            conditioning_bytes: config.conditioning_cache_bytes,
            faults: config.faults.clone(),
        };
        Ok(Self {
            db,
            storage,
            deltas,
            device: DeviceThread::start(engine, settings)?,
            permits: PermitPool::new(max_batch_size),
            decoders: Arc::new(Semaphore::new(cores)),
            config: Arc::new(config),
            model: folder.info,
            class_images: folder.class_images,
            evaluator,
            memory_mib,
        })
    }

    /// Which evaluations this worker can do.
    pub(crate) fn evaluator_digest(&self) -> Option<&str> {
        self.evaluator.as_ref().map(|evaluator| evaluator.info().digest.as_str())
    }

    /// Refuses a job that was meant for another base model.
    pub(crate) fn check_base(&self, digest: &Digest) -> Result<(), JobError> {
        let actual = &self.model.digest;
        if digest == actual {
            return Ok(());
        }
        Err(JobError::BaseModelMismatch { wanted: digest.clone(), actual: actual.clone() })
    }
}
