//! Why a job did not succeed, and whether trying again can help.

use crate::delta_store::DeltaStoreError;
use crate::domain::code::Code;
use crate::domain::digest::Digest;
use crate::domain::id::SampleId;
use crate::domain::job::Failure;
use crate::engine::EngineError;
use crate::storage::{StorageError, StorageKey};

/// Why a job did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The job or the worker was asked to stop.
    #[error("stopped")]
    Stopped,
    /// Another worker has the job, so nothing that this one writes counts.
    #[error("the lease is lost")]
    LeaseLost,
    /// The job was meant for a worker with another base model.
    #[error("the job needs base model {wanted:.12}, this worker has {actual:.12}")]
    BaseModelMismatch { wanted: Digest, actual: Digest },
    /// The evaluation was meant for a worker with another evaluator.
    #[error("the evaluation needs evaluator {wanted:.12}, this worker has another or none")]
    EvaluatorMismatch { wanted: Digest },
    /// One of an evaluation's samples did not succeed.
    #[error("sample `{sample_id}` of the evaluation did not succeed: {reason}")]
    SampleFailed { sample_id: SampleId, reason: String },
    /// The engine cannot do what the job asks for.
    #[error("the engine failed")]
    Engine(#[source] EngineError),
    /// The engine's thread gave no answer: it panicked.
    #[error("the engine broke off")]
    EnginePanicked,
    /// A bug in the job's own code.
    #[error("the job's code panicked")]
    Panicked,
    /// A stored object is not what its row says.
    #[error("object `{key}` is damaged")]
    DamagedObject { key: StorageKey, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("an image cannot be encoded")]
    Encoding(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the class images cannot be read")]
    ClassImages(#[source] std::io::Error),
    #[error("the object store failed")]
    Storage(#[source] StorageError),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl From<EngineError> for JobError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Stopped => Self::Stopped,
            EngineError::ClassImage(reason) => Self::ClassImages(std::io::Error::other(reason)),
            other => Self::Engine(other),
        }
    }
}

impl From<StorageError> for JobError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Damaged { key, reason } => {
                Self::DamagedObject { key, source: reason.into() }
            }
            error => Self::Storage(error),
        }
    }
}

impl From<DeltaStoreError> for JobError {
    fn from(error: DeltaStoreError) -> Self {
        match error {
            DeltaStoreError::Storage(error) => error.into(),
            DeltaStoreError::Damaged { key, source } => Self::DamagedObject { key, source },
            DeltaStoreError::Engine(error) => error.into(),
            DeltaStoreError::Panicked => Self::EnginePanicked,
            error @ (DeltaStoreError::Refused(_)
            | DeltaStoreError::PackMissing(_)
            | DeltaStoreError::CaptionsNotEncoded) => {
                Self::Engine(EngineError::InvalidInput(error.to_string()))
            }
        }
    }
}

impl JobError {
    /// Whether the same job may succeed at another time or on another worker.
    pub(crate) fn retryable(&self) -> bool {
        match self {
            // What is gone stays gone. Another worker may have the rights that this one lacks.
            Self::Storage(error) => !error.is_lost(),
            Self::Database(_)
            | Self::EnginePanicked
            | Self::Panicked
            | Self::BaseModelMismatch { .. }
            | Self::EvaluatorMismatch { .. } => true,
            Self::Engine(EngineError::Tensor(_)) => true,
            Self::Stopped
            | Self::LeaseLost
            | Self::SampleFailed { .. }
            | Self::Engine(_)
            | Self::DamagedObject { .. }
            | Self::Encoding(_)
            | Self::ClassImages(_) => false,
        }
    }

    /// The failure as clients see it. It has the reason if that concerns their request, and otherwise only says that
    /// the service is at fault.
    pub(crate) fn failure(&self) -> Failure {
        let (code, title) = match self {
            Self::Engine(EngineError::InvalidInput(_)) => {
                (Code::InvalidInput, "The engine refused the request")
            }
            Self::Engine(EngineError::Diverged { .. }) => {
                (Code::TrainingDiverged, "The training diverged")
            }
            Self::Engine(EngineError::WithoutEffect { .. }) => {
                (Code::ConceptWithoutEffect, "A concept changes nothing")
            }
            Self::Engine(EngineError::OutOfMemory(_)) => {
                (Code::OutOfMemory, "The device ran out of memory")
            }
            Self::Engine(EngineError::NotFinite { .. }) => {
                (Code::SampleDiverged, "The image diverged")
            }
            Self::Engine(_) | Self::EnginePanicked | Self::Encoding(_) => {
                (Code::EngineError, "The engine failed")
            }
            Self::Panicked => (Code::InternalError, "The job broke off"),
            Self::BaseModelMismatch { .. } => {
                (Code::BaseModelMismatch, "The base model has changed")
            }
            Self::EvaluatorMismatch { .. } => (Code::EvaluatorMissing, "The evaluator has changed"),
            Self::SampleFailed { .. } => (Code::SampleFailed, "A sample did not succeed"),
            Self::DamagedObject { .. } => (Code::ObjectDamaged, "A stored object is damaged"),
            Self::Storage(StorageError::Missing { .. }) => {
                (Code::ObjectMissing, "A stored object is missing")
            }
            Self::Storage(StorageError::Full { .. }) => {
                (Code::StorageFull, "The object store is full")
            }
            Self::Storage(_) => {
                (Code::StorageUnavailable, "An object could not be read or written")
            }
            Self::ClassImages(_) => {
                (Code::ClassImagesUnavailable, "The class images could not be read")
            }
            Self::Database(_) => (Code::DatabaseUnavailable, "The database could not be reached"),
            Self::Stopped | Self::LeaseLost => (Code::Stopped, "Stopped"),
        };
        let detail = match self {
            Self::Engine(
                error @ (EngineError::InvalidInput(_) | EngineError::WithoutEffect { .. }),
            ) => error.to_string(),
            Self::DamagedObject { source, .. } => format!("{self}: {source}"),
            Self::Storage(error @ (StorageError::Missing { .. } | StorageError::Full { .. })) => {
                error.to_string()
            }
            Self::Engine(error @ EngineError::Diverged { .. }) => {
                format!("{error}: try a smaller learning_rate")
            }
            Self::Engine(error @ EngineError::NotFinite { .. }) => format!(
                "{error}: a concept's delta has too large numbers for this prompt, or guidance_scale is too large; try a \
                 smaller strength, or train the concept again"
            ),
            Self::Engine(error @ EngineError::OutOfMemory(_)) => format!(
                "{error}: ask for smaller images, a smaller instance_batch_size and class_batch_size, or a rank; whoever runs \
                 the worker can give it a smaller --memory-budget or --max-batch-size, or a device with more memory"
            ),
            Self::Engine(_) | Self::EnginePanicked | Self::Panicked | Self::Encoding(_) => {
                "the cause is in the server's log under the id of this job".to_owned()
            }
            other => other.to_string(),
        };
        Failure { title: title.to_owned(), code, detail, retryable: self.retryable() }
    }
}
