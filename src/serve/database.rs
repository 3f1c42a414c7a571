//! The database of a process: reached, or started, and migrated.

mod migration;
mod reach;

use std::time::Duration;

use anyhow::{Context, Result};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgPool};

use crate::config::Settings;
use crate::postgres::{self, PrivatePostgres};

pub(super) use migration::migrate;
pub(super) use reach::reach;

/// Connections of a process's API, and of its worker.
const MAX_CONNECTIONS: u32 = 20;
/// How long a request waits for a connection before it is refused.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);
/// A connection that has been used within this time is taken to be alive.
const TRUSTED_FOR: Duration = Duration::from_secs(2);
/// How long connections may take to be closed at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// A connection pool, and the server behind it if that is our own.
pub(super) struct Database {
    pub(super) pool: PgPool,
    options: PgConnectOptions,
    private: Option<PrivatePostgres>,
}

impl Database {
    /// Connects to the database of the settings, or starts a private one.
    ///
    /// - `holder`: what a second process on the same folder is told about this one
    pub(super) async fn open(settings: &Settings, holder: &str) -> Result<Self> {
        if let Some(url) = &settings.database_url {
            let options = reach(url).await?;
            tracing::info!(
                host = options.get_host(),
                port = options.get_port(),
                database = options.get_database(),
                "using the database of DATABASE_URL"
            );
            return Ok(Self { pool: pool(options.clone()).await?, options, private: None });
        }
        let data = settings.data_dir.join("postgres");
        tracing::info!(data = %data.display(), "starting a private Postgres");
        let bin = settings.pg_bin.clone();
        let holder = holder.to_owned();
        let private = tokio::task::spawn_blocking(move || {
            let private = PrivatePostgres::start(&data, bin.as_deref(), true)?;
            private.note_holder(&holder);
            Ok::<_, anyhow::Error>(private)
        })
        .await??;
        let options: PgConnectOptions = private.url().parse()?;
        Ok(Self { pool: pool(options.clone()).await?, options, private: Some(private) })
    }

    /// The same, but where another process runs the private server, its server.
    pub(super) async fn open_shared(settings: &Settings, holder: &str) -> Result<Self> {
        let running = match settings.database_url {
            Some(_) => None,
            None => postgres::running(&settings.data_dir.join("postgres")),
        };
        match running {
            Some(url) => {
                let options: PgConnectOptions = url.parse()?;
                Ok(Self { pool: pool(options.clone()).await?, options, private: None })
            }
            None => Self::open(settings, holder).await,
        }
    }

    /// Whether it is a server of this process alone.
    pub(super) fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// Another pool on the same database.
    pub(super) async fn another_pool(&self) -> Result<PgPool> {
        pool(self.options.clone()).await
    }

    /// Closes the connections, then ends the private server.
    pub(super) async fn close(self) {
        if tokio::time::timeout(CLOSE_LIMIT, self.pool.close()).await.is_err() {
            tracing::warn!("connections to the database did not close in time");
        }
        if let Some(private) = self.private {
            let _ = tokio::task::spawn_blocking(move || drop(private)).await;
        }
    }
}

/// Connects to a catalog.
///
/// # Errors
/// If the address is wrong or the server does not answer: which of the two, and what to do.
pub async fn connect(url: &str) -> Result<PgPool> {
    pool(reach(url).await?).await
}

async fn pool(options: PgConnectOptions) -> Result<PgPool> {
    let pool = PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_LIMIT)
        // Instead of a ping before each statement: a sample takes a dozen of them.
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(
                async move { Ok(about.idle_for < TRUSTED_FOR || connection.ping().await.is_ok()) },
            )
        })
        // Every statement has an index. Without this, a connection keeps a plan that was made while a table was small, and
        // reads the whole table after it has grown (ADR 0013).
        .after_connect(|connection, _| {
            Box::pin(async move {
                // With it, a plan's estimate may be so high that the server compiles it, which takes a thousand times as long
                // as the statement.
                connection.execute("set enable_seqscan = off; set jit = off").await?;
                Ok(())
            })
        });
    pool.connect_with(options).await.context("the database cannot be reached")
}
