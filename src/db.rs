//! The catalog in Postgres: the only place with SQL, one file per table.
//!
//! A function is one statement and takes any executor, so that the caller chooses the transaction. Every statement is
//! checked against the schema when the crate is compiled; what the check needs is kept in `.sqlx`, so that a build
//! needs no database.

pub mod concept;
pub mod delta;
pub mod event;
pub mod image;
pub mod job;
pub mod metric;
pub mod preview;

use uuid::Uuid;

/// The schema, embedded; run at start under the migrator's own lock.
pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

/// A stretch of a list, newest first.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only what is older than this id.
    pub before: Option<Uuid>,
    pub limit: i64,
}

/// The constraint that a statement broke, if it broke one.
pub fn broken_constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}
