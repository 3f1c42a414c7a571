//! Why a request was refused.

use std::time::Duration;

use crate::db;
use crate::delta_store::DeltaStoreError;
use crate::domain::code::Code;
use crate::domain::id::JobId;
use crate::domain::invalid::{FieldError, Invalid, MAX_QUOTED_CHARS, shortened};
use crate::domain::job::JobKind;
use crate::storage::StorageError;

/// About as long as a database takes to fail over or a connection pool to recover.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(5);

/// About as long as somebody takes to make room.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(60);

/// About as long as a request takes.
const IN_FLIGHT_RETRY_AFTER: Duration = Duration::from_secs(1);

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request was refused: one variant per kind of answer.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The request contains at least one error that its sender can correct.
    #[error("the request is not valid")]
    Invalid(#[from] Invalid),
    /// The thing that the request is about does not exist.
    #[error("no {what} `{id}`")]
    NotFound { what: &'static str, id: String },
    /// The request contradicts what is stored.
    #[error("{}", .0.detail)]
    Conflict(FieldError),
    /// The request was made for another state of the resource than the one that it has now.
    #[error(
        "the resource has changed: its ETag is \"{revision}\" now; read it again and repeat the request with its new ETag"
    )]
    PreconditionFailed { revision: i64 },
    /// A request with this key is being served.
    #[error("a request with this Idempotency-Key is being served: send it again in {} s", IN_FLIGHT_RETRY_AFTER.as_secs())]
    KeyInFlight,
    /// The key came with another request.
    #[error(
        "this Idempotency-Key came with another request before: choose a new key for every new request"
    )]
    KeyReused,
    /// Others depend on what is to be deleted; each of them is named.
    #[error("others depend on it: delete them first, or use cascade=true")]
    InUse(Vec<FieldError>),
    /// Nobody knows who sends the request.
    #[error("{detail}")]
    Unauthenticated { detail: &'static str },
    /// Its sender may not do this.
    #[error("{detail}")]
    Forbidden { code: Code, detail: String },
    /// Its sender asks too often.
    #[error("too many requests with this key: send it again in {} s", .retry_after.as_secs().max(1))]
    RateLimited { retry_after: Duration },
    /// The project has as much as it may have.
    #[error("{detail}")]
    QuotaExceeded { detail: String },
    /// The queue of this kind of job is full.
    #[error("{limit} {}s are waiting already and no more are accepted: send it again in {} s",
        .kind.as_str(), .retry_after.as_secs())]
    QueueFull { kind: JobKind, limit: usize, retry_after: Duration },
    /// The captions of a set are being compared for the first time, which takes longer than a request.
    #[error("the captions of this set are compared for the first time, {done} of {total} so far: send the request again in {} s",
        .retry_after.as_secs())]
    NotReady { done: usize, total: usize, retry_after: Duration },
    /// Other requests have all the memory or all the cores that there are for requests of this kind.
    #[error("the service is busy with other requests of this kind: send it again in {} s", UNAVAILABLE_RETRY_AFTER.as_secs())]
    Overloaded,
    /// A part of the service that the request needs cannot be reached; the same request may succeed later.
    #[error("{dependency} cannot be reached: send the request again later")]
    Unavailable { dependency: Dependency, source: Cause },
    /// The object store has no room; what is read from it can still be read.
    #[error(
        "the object store is full: whoever runs this service has to make room, send the request again then"
    )]
    StoreFull { source: Cause },
    /// The catalog has it, but its file in the object store is gone or damaged.
    #[error("the file of {what} `{id}` is {} in the object store: restore it from a backup, or make it again",
        if *.is_damaged { "damaged" } else { "missing" })]
    ObjectLost { what: &'static str, id: String, is_damaged: bool, source: Cause },
    /// A bug or a broken invariant; the cause is for the log and not for the client.
    #[error("internal error")]
    Internal(#[source] Cause),
}

/// What the service itself depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    Database,
    ObjectStore,
}

impl std::fmt::Display for Dependency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Database => "the database",
            Self::ObjectStore => "the object store",
        })
    }
}

impl Refusal {
    /// The code that clients get.
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(invalid) => invalid.code(),
            Self::NotFound { .. } => Code::NotFound,
            Self::Conflict(error) => error.code,
            Self::InUse(errors) => errors.first().map_or(Code::JobInUse, |error| error.code),
            Self::PreconditionFailed { .. } => Code::PreconditionFailed,
            Self::KeyInFlight => Code::IdempotencyInFlight,
            Self::KeyReused => Code::IdempotencyKeyReused,
            Self::Unauthenticated { .. } => Code::Unauthenticated,
            Self::Forbidden { code, .. } => *code,
            Self::RateLimited { .. } => Code::RateLimited,
            Self::QuotaExceeded { .. } => Code::QuotaExceeded,
            Self::QueueFull { .. } => Code::QueueFull,
            Self::NotReady { .. } => Code::ImageSetNotIndexed,
            Self::Overloaded => Code::Overloaded,
            Self::Unavailable { dependency: Dependency::Database, .. } => Code::DatabaseUnavailable,
            Self::Unavailable { dependency: Dependency::ObjectStore, .. } => {
                Code::StorageUnavailable
            }
            Self::StoreFull { .. } => Code::StorageFull,
            Self::ObjectLost { is_damaged: true, .. } => Code::ObjectDamaged,
            Self::ObjectLost { is_damaged: false, .. } => Code::ObjectMissing,
            Self::Internal(_) => Code::InternalError,
        }
    }

    /// What is wrong field by field, if the request is at fault.
    pub fn errors(&self) -> &[FieldError] {
        match self {
            Self::Invalid(invalid) => &invalid.0,
            Self::Conflict(error) => std::slice::from_ref(error),
            Self::InUse(errors) => errors,
            Self::NotFound { .. }
            | Self::Unauthenticated { .. }
            | Self::Forbidden { .. }
            | Self::RateLimited { .. }
            | Self::QuotaExceeded { .. }
            | Self::PreconditionFailed { .. }
            | Self::KeyInFlight
            | Self::KeyReused
            | Self::QueueFull { .. }
            | Self::NotReady { .. }
            | Self::Overloaded
            | Self::Unavailable { .. }
            | Self::StoreFull { .. }
            | Self::ObjectLost { .. }
            | Self::Internal(_) => &[],
        }
    }

    /// The time after which the same request may succeed, if it may.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::KeyInFlight => Some(IN_FLIGHT_RETRY_AFTER),
            Self::QueueFull { retry_after, .. }
            | Self::NotReady { retry_after, .. }
            | Self::RateLimited { retry_after } => Some(*retry_after),
            Self::Overloaded | Self::Unavailable { .. } => Some(UNAVAILABLE_RETRY_AFTER),
            Self::StoreFull { .. } => Some(FULL_RETRY_AFTER),
            Self::Invalid(_)
            | Self::NotFound { .. }
            | Self::Unauthenticated { .. }
            | Self::Forbidden { .. }
            | Self::QuotaExceeded { .. }
            | Self::Conflict(_)
            | Self::InUse(_)
            | Self::PreconditionFailed { .. }
            | Self::KeyReused
            | Self::ObjectLost { .. }
            | Self::Internal(_) => None,
        }
    }

    /// Something that a request names was there when the request was resolved, and is deleted.
    pub(super) fn deleted_meanwhile() -> Self {
        let detail = "a concept, delta or image that the request names was deleted in this moment: send it without";
        Self::Conflict(FieldError::new("", Code::DeletedMeanwhile, detail))
    }

    pub(super) fn not_found(what: &'static str, id: impl std::fmt::Display) -> Self {
        Self::NotFound { what, id: shortened(id.to_string(), MAX_QUOTED_CHARS) }
    }

    pub(super) fn unauthenticated(detail: &'static str) -> Self {
        Self::Unauthenticated { detail }
    }

    /// What a failed read of something's file means for the request.
    ///
    /// - `what`, `id`: the row that the object belongs to
    pub(super) fn of_object(
        what: &'static str,
        id: impl std::fmt::Display,
        error: StorageError,
    ) -> Self {
        match error.is_lost() {
            true => {
                let is_damaged = matches!(error, StorageError::Damaged { .. });
                Self::ObjectLost { what, id: id.to_string(), is_damaged, source: error.into() }
            }
            false => error.into(),
        }
    }

    pub(super) fn internal(cause: impl Into<Cause>) -> Self {
        Self::Internal(cause.into())
    }

    /// A row of the catalog whose kind and task contradict each other.
    pub(super) fn wrong_task(job_id: JobId) -> Self {
        Self::internal(format!("the task of {job_id} is not of its kind"))
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::Invalid(error.into())
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        if db::is_unavailable(&error) {
            Self::Unavailable { dependency: Dependency::Database, source: error.into() }
        } else {
            Self::internal(error)
        }
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Missing { ref key, .. } | StorageError::Damaged { ref key, .. } => {
                let key = key.clone();
                Self::of_object("object", key, error)
            }
            StorageError::Full { .. } => Self::StoreFull { source: error.into() },
            StorageError::Taken { .. } => Self::internal(error),
            StorageError::Denied { .. }
            | StorageError::Unreachable { .. }
            | StorageError::Silent { .. } => {
                Self::Unavailable { dependency: Dependency::ObjectStore, source: error.into() }
            }
        }
    }
}

impl From<DeltaStoreError> for Refusal {
    fn from(error: DeltaStoreError) -> Self {
        match error {
            DeltaStoreError::Storage(error) => error.into(),
            DeltaStoreError::Damaged { key, source } => {
                Self::ObjectLost { what: "object", id: key.to_string(), is_damaged: true, source }
            }
            error @ (DeltaStoreError::PackMissing(_)
            | DeltaStoreError::CaptionsNotEncoded
            | DeltaStoreError::Refused(_)
            | DeltaStoreError::Engine(_)
            | DeltaStoreError::Panicked) => Self::internal(error),
        }
    }
}
