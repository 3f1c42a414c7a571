//! The catalog in Postgres: the only place with SQL, one file per table.
//!
//! A function is one statement and takes any executor, so that the caller chooses the transaction. Every statement is
//! checked against the schema when the crate is compiled; what the check needs is kept in `.sqlx`, so that a build
//! needs no database.

pub mod api_key;
pub mod attempt;
pub mod audit;
pub mod checkpoint;
pub mod concept;
pub mod delta;
pub mod evaluation;
pub mod event;
pub mod idempotency;
pub mod image;
pub mod image_set;
pub mod job;
pub mod label;
pub mod metric;
pub mod object;
pub mod photo;
pub mod preference;
pub mod preview;
pub mod project;
pub mod promotion;
pub mod removal;
pub mod report;
pub mod training_preview;
pub mod upload;
pub mod webhook_delivery;
pub mod webhook_endpoint;
pub mod webhook_outbox;

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use crate::domain::record::{ExternalId, Labels, Metadata, Record};

pub use crate::domain::page::Page;

/// The schema, embedded; run at start under the migrator's own lock.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// What every table of objects has.
fn record_of(
    revision: i64,
    updated_at: DateTime<Utc>,
    Json(metadata): Json<Metadata>,
    external_id: Option<ExternalId>,
) -> Record {
    Record { revision, updated_at, labels: Labels { metadata, external_id } }
}

/// The constraint that a statement broke, if it broke one.
pub fn broken_constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}

/// Whether a transaction was given up because it and another one waited for each other.
pub fn is_deadlock(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|state| state == "40P01")
}

/// Whether a statement failed because the database cannot be reached or refuses clients, and not because of the
/// statement.
pub fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|state| {
            // SQLSTATE: connection exceptions, insufficient resources, operator intervention such as a shutdown.
            ["08", "53", "57P"].iter().any(|class| state.starts_with(class))
        }),
        _ => false, // `sqlx::Error` is non-exhaustive
    }
}
