//! The tables, brought up to date by whoever comes first.

use anyhow::{Context, Result, anyhow};
use sqlx::migrate::{Migrate, MigrateError, Migration};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgPool};

use crate::db::MIGRATOR;

/// What a migration did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Migrated {
    /// The migrations that this call has applied, such as `0003 packs`.
    pub(crate) applied: Vec<String>,
    /// The newest migration, such as `0015`.
    pub(crate) at: String,
}

/// Applies what is missing. Another process that does the same waits for its turn and then finds nothing to do.
///
/// # Errors
/// If the database is newer than the program, or a migration fails; that migration is undone.
pub(crate) async fn migrate(pool: &PgPool) -> Result<Migrated> {
    // A connection of its own, which logs no statements: a migration that takes a while would be printed whole.
    let options = PgConnectOptions::clone(&pool.connect_options()).disable_statement_logging();
    let mut connection = options.connect().await.context("the database cannot be reached")?;
    // The migrator takes the same lock, which a session may hold several times. Taken here as well, what is there before
    // and what it adds are seen as one.
    connection.lock().await?;
    let migrated = apply_missing(&mut connection).await;
    let unlocked = connection.unlock().await;
    let migrated = migrated?;
    unlocked?;
    Ok(migrated)
}

async fn apply_missing(connection: &mut sqlx::PgConnection) -> Result<Migrated> {
    let table = &*MIGRATOR.table_name;
    connection.ensure_migrations_table(table).await?;
    let before = connection.list_applied_migrations(table).await?;
    MIGRATOR.run(&mut *connection).await.map_err(|error| explained(error, &before_max(&before)))?;
    let is_new =
        |migration: &&Migration| before.iter().all(|applied| applied.version != migration.version);
    let applied = MIGRATOR.iter().filter(is_new);
    let applied: Vec<String> = applied
        .map(|migration| format!("{:04} {}", migration.version, migration.description))
        .collect();
    let at = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default();
    for migration in &applied {
        tracing::info!(migration, "applied");
    }
    Ok(Migrated { applied, at: format!("{at:04}") })
}

fn before_max(applied: &[sqlx::migrate::AppliedMigration]) -> String {
    let newest = applied.iter().map(|migration| migration.version).max().unwrap_or_default();
    format!("{newest:04}")
}

/// - `found`: the newest migration of the database
fn explained(error: MigrateError, found: &str) -> anyhow::Error {
    let known = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or_default();
    match error {
        MigrateError::VersionMissing(_) => anyhow!(
            "the database was migrated by a newer version of vstar (it is at {found}, this program knows migrations \
             up to {known:04}): run that version, or restore a backup from before its upgrade"
        ),
        MigrateError::VersionMismatch(version) => anyhow!(
            "migration {version:04} of the database is not the one of this program: it was made by another build; run \
             that one, or restore a backup"
        ),
        error => {
            anyhow::Error::from(error).context("the database's tables cannot be brought up to date")
        }
    }
}
