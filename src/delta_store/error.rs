//! Why the delta store has no answer.

use crate::domain::id::DeltaId;
use crate::engine::EngineError;
use crate::storage::{StorageError, StorageKey};

/// What is wrong with an object.
pub(super) type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum DeltaStoreError {
    #[error("`{0}` has no merge pack")]
    PackMissing(DeltaId),
    /// Nobody has merged over these captions yet, so their text features are not known here.
    #[error("these captions have not been encoded yet")]
    CaptionsNotEncoded,
    #[error("the object store failed")]
    Storage(#[source] StorageError),
    #[error("object `{key}` is damaged")]
    Damaged { key: StorageKey, source: Reason },
    /// The deltas cannot be merged so.
    #[error("{0}")]
    Refused(String),
    #[error("the algebra failed")]
    Engine(#[source] EngineError),
    #[error("the work ended early")]
    Panicked,
}

impl From<StorageError> for DeltaStoreError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Damaged { key, reason } => Self::Damaged { key, source: reason.into() },
            error => Self::Storage(error),
        }
    }
}

impl From<EngineError> for DeltaStoreError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::InvalidInput(reason) => Self::Refused(reason),
            other => Self::Engine(other),
        }
    }
}
