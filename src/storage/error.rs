//! Why an object, or a whole store, cannot be used.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::StorageKey;

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The store answers, and has no such object.
    #[error("object `{key}` is not there")]
    Missing { key: StorageKey, source: object_store::Error },
    /// The object is not what its row says.
    #[error("object `{key}` is damaged: {reason}")]
    Damaged { key: StorageKey, reason: String },
    /// There is another object of this name, which must not change.
    #[error("there is another object `{key}` already")]
    Taken { key: StorageKey },
    #[error("object `{key}` cannot be written because the object store is full")]
    Full { key: StorageKey, source: object_store::Error },
    /// The store refuses these credentials, or the folder these rights.
    #[error("the object store refuses access to `{key}`")]
    Denied { key: StorageKey, source: object_store::Error },
    #[error("object `{key}` cannot be reached")]
    Unreachable { key: StorageKey, source: object_store::Error },
    /// The store took the request and does not answer it.
    #[error("the object store gave no answer about `{key}` within {} s", .after.as_secs())]
    Silent { key: StorageKey, after: Duration },
}

impl StorageError {
    /// Whether the same call may succeed in a moment, without anything being repaired.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Full { .. } => true,
            Self::Missing { .. }
            | Self::Damaged { .. }
            | Self::Taken { .. }
            | Self::Denied { .. } => false,
        }
    }

    /// Whether the object is gone or damaged: only a backup, or making it again, brings it back.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Damaged { .. })
    }

    /// The object that it is about.
    pub fn key(&self) -> &StorageKey {
        match self {
            Self::Missing { key, .. }
            | Self::Damaged { key, .. }
            | Self::Taken { key }
            | Self::Full { key, .. }
            | Self::Denied { key, .. }
            | Self::Unreachable { key, .. }
            | Self::Silent { key, .. } => key,
        }
    }

    pub(super) fn new(key: &StorageKey, source: object_store::Error) -> Self {
        let key = key.clone();
        match &source {
            // Without its bucket or container, a store has none of its objects. That is no news about this one.
            object_store::Error::NotFound { .. } if !is_without_container(&source) => {
                Self::Missing { key, source }
            }
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => Self::Denied { key, source },
            _ => match io_kind(&source) {
                Some(kind) if is_full(kind) => Self::Full { key, source },
                Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                    Self::Denied { key, source }
                }
                _ => Self::Unreachable { key, source },
            },
        }
    }
}

/// Whether the bucket or container is missing, as the body of the answer says.
fn is_without_container(error: &object_store::Error) -> bool {
    let text = error.to_string();
    text.contains("NoSuchBucket") || text.contains("ContainerNotFound")
}

/// Whether there is no room, or not as much as somebody may use.
fn is_full(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// The kind of the I/O error that is the cause, if one is.
fn io_kind(error: &object_store::Error) -> Option<io::ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

/// Why an object store cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "`{0}` is neither a folder nor a URL such as s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
    )]
    NotAPlace(String),
    #[error("the folder cannot be made")]
    Folder(#[from] io::Error),
    #[error("its settings in the environment are not complete")]
    Settings(#[source] Cause),
    #[error("the bucket or container does not exist: make it, or correct the URL")]
    NoContainer(#[source] Cause),
    #[error("it refuses access: check the credentials in the environment and what they may do")]
    Denied(#[source] Cause),
    #[error("it is full: make room in it")]
    Full(#[source] Cause),
    #[error("it does not answer: check the URL, the endpoint in the environment and the network")]
    Unreachable(#[source] Cause),
    #[error(
        "it gave no answer within {} s: check the endpoint in the environment and the network",
        .0.as_secs()
    )]
    Silent(Duration),
    /// Results of two workers could overwrite each other there.
    #[error(
        "it overwrites an object that was to be created only if absent: use a store with conditional puts"
    )]
    IgnoresConditions,
    #[error("it returns other bytes than were written: use another store")]
    ReadsOtherBytes,
    #[error("it does not list an object that was just written: use a store with consistent lists")]
    ListsTooLate,
    #[error("an object that was deleted is still there: use a store with consistent deletes")]
    DeletesTooLate,
}

impl StoreError {
    pub(super) fn of(source: object_store::Error) -> Self {
        match &source {
            object_store::Error::NotFound { .. } => Self::NoContainer(Cause::of(&source)),
            object_store::Error::PermissionDenied { .. }
            | object_store::Error::Unauthenticated { .. } => Self::Denied(Cause::of(&source)),
            _ => match io_kind(&source) {
                Some(kind) if is_full(kind) => Self::Full(Cause::of(&source)),
                Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
                    Self::Denied(Cause::of(&source))
                }
                _ => Self::Unreachable(Cause::of(&source)),
            },
        }
    }
}

/// What lies at the root of an error, in a line.
///
/// The error itself repeats the request and the answer at each of its levels.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    pub(super) fn of(error: &object_store::Error) -> Self {
        let mut root: &dyn Error = error;
        while let Some(source) = root.source() {
            root = source;
        }
        let text = root.to_string();
        let tag = |name: &str| {
            let (_, rest) = text.split_once(&format!("<{name}>"))?;
            Some(rest.split_once('<')?.0.trim())
        };
        match (tag("Code"), tag("Message")) {
            (Some(code), Some(message)) => Self(format!("{code}: {message}")),
            (Some(code), None) => Self(code.to_owned()),
            (None, _) => Self(text.trim().trim_end_matches(':').to_owned()),
        }
    }
}
