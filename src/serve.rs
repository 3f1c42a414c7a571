//! The service, put together: database, object store, base model, HTTP server and worker in one process.
//!
//! - `checks`: every setting, tried before anything is made
//! - `database`, `model`: what a process works with
//! - `connections`: the HTTP server
//! - `doctor`: what is missing on this machine
//! - `supervision`, `signals`: how a process ends
//! - `all_devices`: a worker process for each GPU

mod access;
#[expect(unsafe_code, reason = "signals are sent by a system call")]
mod all_devices;
mod checks;
mod connections;
mod database;
pub mod doctor;
mod model;
mod signals;
mod supervision;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::net::TcpListener;

use self::checks::Use;
use self::connections::Limits;
use self::database::Database;
use self::model::{CPU, Model, delta_store, load_evaluator, load_model, publish};
use self::supervision::Tasks;
use crate::app::{App, api_key};
use crate::config::{DEFAULT_IDLE_TIMEOUT, EndingSettings, ServeSettings, Settings};
use crate::delta_store::DeltaStore;
use crate::domain::job::LEASE;
use crate::gc::{self, GcOptions, GcReport};
use crate::http::{metrics_router, router_behind};
use crate::metrics::Metrics;
use crate::reaper::{self, Reaper};
use crate::shutdown::{Shutdown, exit_at_once};
use crate::stdout;
use crate::storage::Storage;
use crate::webhook_sender::{Sender, SenderOptions};
use crate::worker::{Worker, WorkerConfig};

pub use self::database::connect;
pub use self::signals::Signals;

/// A service that answers; [`Service::stop`] ends it in order.
pub struct Service {
    pub address: SocketAddr,
    /// The delta store that API and worker of this process share.
    pub deltas: DeltaStore,
    shutdown: Shutdown,
    ending: EndingSettings,
    tasks: Tasks,
    /// Ends last.
    database: Database,
}

impl Service {
    /// Starts everything and returns when requests are answered.
    ///
    /// # Errors
    /// Every setting that is wrong, before anything is made; or what failed afterwards.
    pub async fn start(settings: &ServeSettings) -> Result<Self> {
        let common = &settings.common;
        common.ending.check().map_err(anyhow::Error::msg)?;
        access::asks_for_keys(settings)?;
        // First of all, because it costs nothing. Clients that are early wait in its queue.
        let listener = TcpListener::bind(settings.listen).await.with_context(|| {
            format!("--listen {}: choose another address, or end who has it", settings.listen)
        })?;
        let address = listener.local_addr()?;
        let metrics_listener = listen_for_metrics(common).await?;
        checks::check(common, Use::Api { worker: !settings.no_worker }).await?;

        let database = Database::open(common, &format!("http://{address}")).await?;
        database::migrate(&database.pool).await?;
        if database.is_private() {
            // The workers that used it are gone, so their jobs need not wait for their leases to run out.
            reaper::take_back_all(&database.pool).await?;
        }
        let storage = open_storage(common).await?;
        let model = Model::open(common, !settings.no_worker).await?;
        let evaluator = load_evaluator(common, CPU).await?;
        let folder = model.folder();
        publish(folder, &storage).await?;
        let (info, deltas) = (folder.info.clone(), delta_store(&storage, folder, common));

        let shutdown = Shutdown::default();
        let (db, store) = (database.pool.clone(), storage.clone());
        let app = App::new(db, store, info, deltas.clone(), shutdown.clone())
            .with_queue_limit(settings.queue_limit)
            .with_ready_queue_depth(settings.ready_queue_depth)
            .with_receivers(settings.receivers())
            .with_access(access::access(settings)?)
            .with_evaluator(evaluator.clone());
        access::show_first_key(&app).await?;
        let listed = app.list_class_images(&folder.class_images).await;
        listed.context("the base model's class images cannot be listed")?;
        let mut tasks = Tasks::default();
        let limits = Limits { connections: settings.max_connections, idle: settings.idle_timeout };
        let watch = app.clone().watch_database();
        tasks.spawn("the watch over the database", until_closing(shutdown.clone(), watch));
        tasks.spawn("the deletion of old events", app.clone().tidy());
        let router = router_behind(app, access::doors(settings));
        let served = connections::serve(listener, router, shutdown.clone(), limits);
        tasks.spawn("the HTTP server", served);
        if let Some(listener) = metrics_listener {
            let router = metrics_router(Metrics::new(database.pool.clone()));
            let served = connections::serve(listener, router, shutdown.clone(), FOR_METRICS);
            tasks.spawn("the metrics", served);
        }
        let options = SenderOptions {
            receivers: settings.receivers(),
            public_url: settings.public_url.clone().unwrap_or_default(),
        };
        let sender = Sender::new(database.pool.clone(), options)?;
        tasks.spawn("the sender of webhooks", sender.run(shutdown.clone()));
        let reaper = Reaper::new(database.pool.clone(), LEASE);
        tasks.spawn("the reaper", reaper.run(|| (), shutdown.closing_token().clone()));
        if let Model::Loaded(model) = model {
            // The worker has connections of its own, so that requests cannot keep it from renewing its leases.
            let pool = database.another_pool().await?;
            let config = WorkerConfig::from(&common.worker);
            let evaluator = match common.device.as_str() {
                CPU => evaluator,
                device => load_evaluator(common, device).await?,
            };
            let model = model.with_evaluator(evaluator);
            let worker = Worker::new(pool, storage, deltas.clone(), model, config)?;
            tasks.spawn("the worker", worker.run(shutdown.clone()));
        }
        tracing::info!(%address, worker = !settings.no_worker, "vstar answers");
        let ending = common.ending.clone();
        Ok(Self { address, deltas, shutdown, ending, tasks, database })
    }

    /// Ends requests and jobs at their next step, then the database.
    pub async fn stop(mut self) {
        self.shutdown.close();
        if !self.tasks.end(self.ending.shutdown_timeout).await {
            tracing::warn!("not everything ended in time");
        }
        self.database.close().await;
    }
}

/// `vstar serve`: until SIGTERM or Ctrl-C, or until a part of it fails.
///
/// # Errors
/// If it cannot start, or a part of it ended by itself.
pub async fn serve(settings: &ServeSettings) -> Result<()> {
    let mut signals = Signals::listen()?;
    let service = signals.or_end_at_once(Service::start(settings)).await?;
    let Service { shutdown, ending, tasks, database, .. } = service;
    // The listener stays open, so that whoever looks at /readyz sees that it is to look elsewhere.
    run_to_end(signals, tasks, shutdown, &ending, database, ending.drain_grace).await
}

/// `vstar work`: a worker alone, for one device; with `--device all`, a process like this for each GPU.
///
/// # Errors
/// As for [`serve()`].
pub async fn work(settings: &Settings) -> Result<()> {
    if settings.device == all_devices::ALL {
        return all_devices::work(settings).await;
    }
    let mut signals = Signals::listen()?;
    let metrics_listener = listen_for_metrics(settings).await?;
    let (worker, database) = signals.or_end_at_once(start_worker(settings)).await?;
    let shutdown = Shutdown::default();
    let mut tasks = Tasks::default();
    if let Some(listener) = metrics_listener {
        let router = metrics_router(Metrics::new(database.pool.clone()));
        let served = connections::serve(listener, router, shutdown.clone(), FOR_METRICS);
        tasks.spawn("the metrics", served);
    }
    tasks.spawn("the worker", worker.run(shutdown.clone()));
    run_to_end(signals, tasks, shutdown, &settings.ending, database, Duration::ZERO).await
}

/// For a program that scrapes, and perhaps another.
const FOR_METRICS: Limits = Limits { connections: 16, idle: DEFAULT_IDLE_TIMEOUT };

async fn listen_for_metrics(settings: &Settings) -> Result<Option<TcpListener>> {
    let Some(address) = settings.metrics_listen else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("--metrics-listen {address}: choose another address, or end who has it")
    })?;
    Ok(Some(listener))
}

async fn start_worker(settings: &Settings) -> Result<(Worker, Database)> {
    settings.ending.check().map_err(anyhow::Error::msg)?;
    checks::check(settings, Use::WorkerAlone).await?;
    let database = Database::open(settings, "").await?;
    database::migrate(&database.pool).await?; // whoever comes first does it
    let storage = open_storage(settings).await?;
    let model = load_model(settings).await?;
    let model = model.with_evaluator(load_evaluator(settings, &settings.device).await?);
    publish(&model.folder, &storage).await?;
    let deltas = delta_store(&storage, &model.folder, settings);
    let config = WorkerConfig::from(&settings.worker);
    Ok((Worker::new(database.pool.clone(), storage, deltas, model, config)?, database))
}

/// `vstar gc`: deletes objects that nothing refers to, and reports rows whose object is gone. A private Postgres may be in
/// use by a service that runs.
///
/// # Errors
/// If the database or the object store cannot be reached.
pub async fn collect_garbage(settings: &Settings, options: &GcOptions) -> Result<GcReport> {
    let database = Database::open_shared(settings, "vstar gc").await?;
    let storage = open_storage(settings).await?;
    let collected = gc::collect(&database.pool, &storage, options).await;
    database.close().await;
    collected
}

/// `vstar migrate`: brings the database's tables up to date, and says what it did.
///
/// # Errors
/// If the database cannot be reached or is newer than the program.
pub async fn migrate(settings: &Settings) -> Result<()> {
    checks::check(settings, Use::Tables).await?;
    let database = Database::open(settings, "vstar migrate").await?;
    let migrated = database::migrate(&database.pool).await;
    database.close().await;
    let migrated = migrated?;
    if migrated.applied.is_empty() {
        stdout::line(&format!("up to date, at {}", migrated.at))?;
    }
    for migration in migrated.applied {
        stdout::line(&format!("applied {migration}"))?;
    }
    Ok(())
}

/// `vstar admin-key`: makes a key that may do everything, for whoever has lost the first one.
///
/// # Errors
/// If the database cannot be reached, or its keys were made with another pepper.
pub async fn issue_admin_key(settings: &Settings, key_pepper: Option<&str>) -> Result<String> {
    let database = Database::open_shared(settings, "vstar admin-key").await?;
    let pepper = access::pepper(key_pepper, &settings.data_dir)?;
    let issued = api_key::issue_admin_key(&database.pool, &pepper, "made by vstar admin-key").await;
    database.close().await;
    Ok(issued?.text)
}

/// Waits for a signal, or for a part that fails, and ends the process in order.
///
/// - `open_for`: how long everything stays reachable after the signal
async fn run_to_end(
    mut signals: Signals,
    mut tasks: Tasks,
    shutdown: Shutdown,
    ending: &EndingSettings,
    database: Database,
    open_for: Duration,
) -> Result<()> {
    let failure = tokio::select! {
        (name, _) = signals.next() => {
            tracing::info!("{name}: ending");
            None
        }
        failure = tasks.failure() => {
            tracing::error!("{failure:#}: ending");
            Some(failure)
        }
    };
    signals.end_at_once();
    let began = Instant::now();
    shutdown.drain();
    // A worker alone has nobody who looks at it: it ends as soon as its jobs have, samples within the grace.
    let grace = ending.drain_grace;
    let ended_early = if open_for.is_zero() {
        tasks.end(grace).await
    } else {
        tokio::time::sleep(open_for).await;
        false
    };
    shutdown.close();
    let left = ending.shutdown_timeout.saturating_sub(began.elapsed());
    let all_ended = ended_early || tasks.end(left).await;
    database.close().await;
    if !all_ended {
        // The rest is given up: clients are cut off, and jobs are taken up when their leases end. A thread may still compute.
        eprintln!("error: not everything ended within {:?}", ending.shutdown_timeout);
        exit_at_once(1);
    }
    match failure {
        Some(failure) => Err(failure),
        None => {
            tracing::info!(seconds = began.elapsed().as_secs_f64(), "ended");
            Ok(())
        }
    }
}

/// For a part that ends with the process and not by itself.
async fn until_closing(shutdown: Shutdown, part: impl Future<Output = ()>) {
    tokio::select! {
        () = part => {}
        () = shutdown.closing() => {}
    }
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
