//! The service, put together: database, object store, base model, HTTP server and worker in one process.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, Executor, PgPool};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::{ServeSettings, Settings};
use crate::delta_store::{BaseModelRef, DeltaStore};
use crate::domain::job::LEASE;
use crate::evaluator::Evaluator;
use crate::http::router;
use crate::model_folder::ModelFolder;
use crate::postgres::PrivatePostgres;
use crate::reaper::{self, Reaper};
use crate::storage::Storage;
use crate::worker::{LoadedModel, Worker, WorkerConfig};

/// How long requests and jobs may take to end once the process is asked to.
const GRACE: Duration = Duration::from_secs(25);

/// The device on which an API evaluates texts.
const CPU: &str = "cpu";

/// A service that answers; [`Service::stop`] ends it in order.
pub struct Service {
    pub address: SocketAddr,
    /// The delta store that API and worker of this process share.
    pub deltas: DeltaStore,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    /// Ends last.
    database: Database,
}

/// A connection pool, and the server behind it if that is our own.
struct Database {
    url: String,
    pool: PgPool,
    private: Option<PrivatePostgres>,
}

impl Service {
    /// Starts everything and returns when requests are answered.
    ///
    /// # Errors
    /// What is missing, in a sentence: the database, the object store, the base model, the address.
    pub async fn start(settings: &ServeSettings) -> Result<Self> {
        let common = &settings.common;
        let database = Database::open(common).await?;
        migrate_pool(&database.pool).await?;
        if database.private.is_some() {
            // The workers that used it are gone, so their jobs need not wait for their leases to run out.
            reaper::take_back_all(&database.pool).await?;
        }
        let storage = open_storage(common).await?;
        let model = match settings.no_worker {
            true => Model::Folder(open_model(common).await?),
            false => Model::Loaded(Box::new(load_model(common).await?)),
        };
        let evaluator = load_evaluator(common, CPU).await?;
        let folder = model.folder();
        publish(folder, &storage).await?;
        let (info, deltas) = (folder.info.clone(), delta_store(&storage, folder, common));

        let shutdown = CancellationToken::new();
        let listener = TcpListener::bind(settings.listen).await.with_context(|| {
            format!("cannot listen on {}: choose another --listen", settings.listen)
        })?;
        let address = listener.local_addr()?;
        let app = App::new(
            database.pool.clone(),
            storage.clone(),
            info,
            deltas.clone(),
            shutdown.clone(),
        )
        .with_queue_limit(settings.queue_limit)
        .with_evaluator(evaluator.clone());
        let listed = app.list_class_images(&folder.class_images).await;
        listed.context("the base model's class images cannot be listed")?;
        let stopped = shutdown.clone().cancelled_owned();
        let mut tasks = vec![tokio::spawn(async move {
            if let Err(error) =
                axum::serve(listener, router(app)).with_graceful_shutdown(stopped).await
            {
                tracing::error!(%error, "the HTTP server ended");
            }
        })];
        let reaper = Reaper::new(database.pool.clone(), LEASE);
        tasks.push(tokio::spawn(reaper.run(|| (), shutdown.clone())));
        if let Model::Loaded(model) = model {
            // The worker has connections of its own, so that requests cannot keep it from renewing its leases.
            let pool = connect(&database.url).await?;
            let config = WorkerConfig::from(&common.worker);
            let evaluator = match common.device.as_str() {
                CPU => evaluator,
                device => load_evaluator(common, device).await?,
            };
            let model = model.with_evaluator(evaluator);
            let worker = Worker::new(pool, storage, deltas.clone(), model, config)?;
            tasks.push(tokio::spawn(worker.run(shutdown.clone())));
        }
        tracing::info!(%address, worker = !settings.no_worker, "vstar answers");
        Ok(Self { address, deltas, shutdown, tasks, database })
    }

    /// Ends requests and jobs at their next step, then the database.
    pub async fn stop(self) {
        self.shutdown.cancel();
        let all = futures::future::join_all(self.tasks);
        if tokio::time::timeout(GRACE, all).await.is_err() {
            tracing::warn!("not everything ended in time");
        }
        self.database.close().await;
    }
}

/// `vstar serve`: until SIGTERM or Ctrl-C.
pub async fn serve(settings: &ServeSettings) -> Result<()> {
    let service = Service::start(settings).await?;
    asked_to_end().await;
    tracing::info!("ending");
    service.stop().await;
    Ok(())
}

/// `vstar work`: a worker alone, for one device.
pub async fn work(settings: &Settings) -> Result<()> {
    let Some(url) = &settings.database_url else {
        bail!("a worker needs the database of its service: set DATABASE_URL");
    };
    if settings.object_store.is_none() {
        bail!("a worker needs the object store of its service: set VSTAR_OBJECT_STORE");
    }
    let pool = connect(url).await?;
    migrate_pool(&pool).await?; // whoever comes first does it
    let storage = open_storage(settings).await?;
    let model = load_model(settings).await?;
    let model = model.with_evaluator(load_evaluator(settings, &settings.device).await?);
    publish(&model.folder, &storage).await?;
    let deltas = delta_store(&storage, &model.folder, settings);
    let config = WorkerConfig::from(&settings.worker);
    let worker = Worker::new(pool.clone(), storage, deltas, model, config)?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(worker.run(shutdown.clone()));
    asked_to_end().await;
    shutdown.cancel();
    let _ = tokio::time::timeout(GRACE, running).await;
    pool.close().await;
    Ok(())
}

/// `vstar migrate`: brings the database's tables up to date.
pub async fn migrate(settings: &Settings) -> Result<()> {
    let database = Database::open(settings).await?;
    migrate_pool(&database.pool).await?;
    database.close().await;
    Ok(())
}

/// Returns at SIGTERM or Ctrl-C.
pub async fn asked_to_end() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

impl Database {
    async fn open(settings: &Settings) -> Result<Self> {
        if let Some(url) = &settings.database_url {
            tracing::info!("using the database of DATABASE_URL");
            return Ok(Self { url: url.clone(), pool: connect(url).await?, private: None });
        }
        let data = settings.data_dir.join("postgres");
        tracing::info!(data = %data.display(), "starting a private Postgres");
        let bin = settings.pg_bin.clone();
        let private = tokio::task::spawn_blocking(move || {
            PrivatePostgres::start(&data, bin.as_deref(), true)
        })
        .await??;
        let url = private.url().to_owned();
        Ok(Self { pool: connect(&url).await?, url, private: Some(private) })
    }

    async fn close(self) {
        self.pool.close().await;
        if let Some(private) = self.private {
            let _ = tokio::task::spawn_blocking(move || drop(private)).await;
        }
    }
}

/// A connection that has been used within this time is taken to be alive.
const TRUSTED_FOR: Duration = Duration::from_secs(2);

/// Connects to a catalog.
///
/// # Errors
/// If the server does not answer.
pub async fn connect(url: &str) -> Result<PgPool> {
    let options = PgPoolOptions::new()
        .max_connections(20)
        .acquire_timeout(Duration::from_secs(10))
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
    options.connect(url).await.context("the database cannot be reached")
}

async fn migrate_pool(pool: &PgPool) -> Result<()> {
    sqlx::migrate!().run(pool).await.context("the database's tables cannot be brought up to date")
}

async fn open_storage(settings: &Settings) -> Result<Storage> {
    let place = match &settings.object_store {
        Some(place) => place.clone(),
        None => settings.data_dir.join("objects").display().to_string(),
    };
    let storage = Storage::open(&place)
        .with_context(|| format!("the object store {place} cannot be opened"))?;
    storage.check().await.with_context(|| format!("the object store {place} cannot be used"))?;
    Ok(storage)
}

/// The base model, as far as a process needs it.
enum Model {
    /// For an API without a worker: no weights.
    Folder(ModelFolder),
    Loaded(Box<LoadedModel>),
}

impl Model {
    fn folder(&self) -> &ModelFolder {
        match self {
            Self::Folder(folder) => folder,
            Self::Loaded(model) => &model.folder,
        }
    }
}

/// Puts the class images where every worker finds them.
async fn publish(folder: &ModelFolder, storage: &Storage) -> Result<()> {
    let published = folder.publish_class_images(storage).await;
    published.context("the base model's class images cannot be stored")
}

fn delta_store(storage: &Storage, folder: &ModelFolder, settings: &Settings) -> DeltaStore {
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

async fn load_model(settings: &Settings) -> Result<LoadedModel> {
    let dir = settings.base_model_dir().map_err(anyhow::Error::msg)?;
    let device = settings.device.clone();
    limit_threads(settings);
    tracing::info!(dir = %dir.display(), device, "loading the base model");
    let shown = dir.display().to_string();
    tokio::task::spawn_blocking(move || LoadedModel::load(&dir, &device))
        .await?
        .with_context(|| format!("the base model {shown} does not load"))
}

/// The evaluator on a device; `None` without one.
///
/// # Errors
/// If the folder that the settings name does not load. A folder that only happens to lie beside the base model's must not
/// keep the service from starting: then evaluations are refused, and the log says why.
async fn load_evaluator(settings: &Settings, device: &str) -> Result<Option<Evaluator>> {
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
