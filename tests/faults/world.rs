//! A deployment: Postgres, an object store, an API and workers, each a process of its own.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::client::{Client, PATIENCE, has_ended, state, step_of, training_of, uuid_of};
use crate::postgres::Postgres;
use crate::process::{Process, free_port, until};
use crate::program::{self, repository};
use crate::report::{Figures, Run, figures};
use crate::store;

/// A stopped job is claimed again after its lease, which may just have been renewed, and the next sweep.
pub(crate) const LEASE: Duration = Duration::from_secs(15);

/// How a deployment differs from one with a local folder and one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    pub(crate) worker_arguments: Vec<String>,
    /// The port of an S3 server, or of its proxy.
    pub(crate) s3: Option<u16>,
    /// A folder for the objects; one of the deployment's own if neither is given.
    pub(crate) objects: Option<PathBuf>,
}

impl Setup {
    pub(crate) fn workers(workers: usize) -> Self {
        Self { workers, ..Self::default() }
    }

    /// Workers store a checkpoint every so many steps.
    pub(crate) fn checkpoint_every(mut self, steps: u64) -> Self {
        if program::help("work").contains("--checkpoint-every") {
            self.worker_arguments.extend(["--checkpoint-every".to_owned(), steps.to_string()]);
        }
        self
    }
}

pub(crate) struct World {
    name: &'static str,
    setup: Setup,
    dir: tempfile::TempDir,
    api_port: u16,
    pub(crate) client: Client,
    pub(crate) db: PgPool,
    workers: RefCell<Vec<Process>>,
    api: RefCell<Option<Process>>,
    started: Cell<usize>,
    /// Ends last.
    pub(crate) postgres: tokio::sync::Mutex<Postgres>,
}

impl World {
    /// Starts everything, and waits until the API answers.
    pub(crate) async fn start(run: &Run, setup: Setup) -> Result<Self> {
        let name = run.fault.name;
        forget_logs(name);
        let postgres = Postgres::start(&log(name, "postgres")).await?;
        Self::on(name, postgres, setup).await
    }

    /// The same on a database that is there.
    pub(crate) async fn on(name: &'static str, postgres: Postgres, setup: Setup) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vstar-faults-").tempdir()?;
        let options =
            PgPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(5));
        let api_port = free_port();
        let workers = setup.workers;
        let world = Self {
            name,
            setup,
            dir,
            api_port,
            client: Client::new(api_port),
            db: options.connect_lazy(&postgres.url())?,
            workers: RefCell::default(),
            api: RefCell::default(),
            started: Cell::new(0),
            postgres: tokio::sync::Mutex::new(postgres),
        };
        world.start_api().await?;
        for _ in 0..workers {
            world.add_worker().await?;
        }
        Ok(world)
    }

    /// Where the objects are, if the store is a folder.
    pub(crate) fn objects(&self) -> PathBuf {
        self.setup.objects.clone().unwrap_or_else(|| self.dir.path().join("objects"))
    }

    /// The environment of every process.
    pub(crate) async fn environment(&self) -> Vec<(String, String)> {
        let mut environment = match self.setup.s3 {
            Some(port) => store::environment(port),
            None => {
                let objects = self.objects().to_string_lossy().into_owned();
                vec![("VSTAR_OBJECT_STORE".to_owned(), objects)]
            }
        };
        environment.push(("DATABASE_URL".to_owned(), self.postgres.lock().await.url()));
        environment
    }

    /// A command of the program with the deployment's settings.
    pub(crate) async fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program::path());
        command.arg(name).current_dir(self.dir.path()).envs(self.environment().await);
        command.env("VSTAR_BASE_MODEL", repository("models/tiny")).env("RUST_LOG", "info");
        command
    }

    /// Starts the API, again if it was killed, and waits until it answers; returns how long that took.
    pub(crate) async fn start_api(&self) -> Result<Duration> {
        self.start_api_with(&[]).await
    }

    pub(crate) async fn start_api_with(&self, arguments: &[&str]) -> Result<Duration> {
        let mut command = self.command("serve").await;
        command.args(["--no-worker", "--listen", &format!("127.0.0.1:{}", self.api_port)]);
        command.args(arguments);
        let process = Process::start(command, &log(self.name, "api"))?;
        self.api.replace(Some(process));
        until("the API answers", PATIENCE, async || {
            let ended = self.api.borrow_mut().as_mut().is_none_or(|api| api.ended().is_some());
            ended || self.client.is_ready().await
        })
        .await
        .and_then(|took| {
            let mut api = self.api.borrow_mut();
            let api = api.as_mut().context("the API is there")?;
            ensure!(api.ended().is_none(), "the API ended: {}", api.log_tail());
            Ok(took)
        })
    }

    pub(crate) fn kill_api(&self) {
        self.api.replace(None);
    }

    /// The process of the API.
    pub(crate) fn take_api(&self) -> Result<Process> {
        self.api.take().context("there is no API")
    }

    /// Starts a worker and returns its process id.
    pub(crate) async fn add_worker(&self) -> Result<i32> {
        let command = self.command("work").await;
        self.add_worker_by(command)
    }

    /// Starts a worker by a command of [`Self::command`] that may set more.
    pub(crate) fn add_worker_by(&self, mut command: Command) -> Result<i32> {
        command.args(&self.setup.worker_arguments);
        let number = self.started.get() + 1;
        self.started.set(number);
        let process = Process::start(command, &log(self.name, &format!("worker-{number}")))?;
        let id = process.id();
        self.workers.borrow_mut().push(process);
        Ok(id)
    }

    /// The process ids of the workers.
    pub(crate) fn workers(&self) -> Vec<i32> {
        self.workers.borrow().iter().map(Process::id).collect()
    }

    /// Takes a worker out, to be waited for.
    pub(crate) fn take_worker(&self, id: i32) -> Result<Process> {
        let mut workers = self.workers.borrow_mut();
        let at = workers.iter().position(|worker| worker.id() == id);
        Ok(workers.swap_remove(at.with_context(|| format!("no worker {id} is left"))?))
    }

    pub(crate) fn put_back(&self, worker: Process) {
        self.workers.borrow_mut().push(worker);
    }

    pub(crate) fn kill_worker(&self, id: i32) -> Result<()> {
        self.take_worker(id).map(drop)
    }

    /// The process id of the worker that has a job; `None` if nobody has.
    pub(crate) async fn holder(&self, path: &str) -> Result<Option<i32>> {
        let query = "select worker from job where job_id = $1 and state = 'running'";
        let name: Option<String> =
            sqlx::query_scalar(query).bind(uuid_of(path)).fetch_optional(&self.db).await?;
        let Some(name) = name else { return Ok(None) };
        let numbers = name.split(|letter: char| !letter.is_ascii_digit());
        let numbers: Vec<i32> = numbers.filter_map(|number| number.parse().ok()).collect();
        Ok(self.workers().into_iter().find(|id| numbers.contains(id)))
    }

    /// The lease's number and holder, as the database has them.
    pub(crate) async fn lease(&self, path: &str) -> Result<(i64, Option<String>, String)> {
        let query = "select fence, worker, state from job where job_id = $1";
        Ok(sqlx::query_as(query).bind(uuid_of(path)).fetch_one(&self.db).await?)
    }

    /// Waits until a training is at a step or has ended; returns its state.
    pub(crate) async fn reach(&self, training: &str, step: u64) -> Result<Value> {
        self.client
            .wait(training, |job| has_ended(job) || step_of(job).is_some_and(|at| at >= step))
            .await
    }

    /// Trains a concept of the demo without being disturbed; returns the digest of the delta.
    ///
    /// The same training has the same bytes in every deployment, so it runs once for all faults.
    pub(crate) async fn undisturbed(&self, concept: &str, steps: u64) -> Result<String> {
        static KNOWN: LazyLock<tokio::sync::Mutex<HashMap<(String, u64), String>>> =
            LazyLock::new(Default::default);
        let mut known = KNOWN.lock().await;
        if let Some(digest) = known.get(&(concept.to_owned(), steps)) {
            return Ok(digest.clone());
        }
        let path = self.client.start("/v1/trainings", &training_of(concept, steps)).await?;
        let training = self.client.succeeded(&path).await?;
        self.has_ended_once(&path).await?;
        ensure!(
            training["attempt"] == 1,
            "the undisturbed training was disturbed: {}",
            state(&training)
        );
        let digest = self.client.delta_digest(&training).await?;
        known.insert((concept.to_owned(), steps), digest.clone());
        Ok(digest)
    }

    /// Whether a job ended, and did so once: one event says so, and there is one result.
    pub(crate) async fn has_ended_once(&self, path: &str) -> Result<()> {
        let job = uuid_of(path);
        let ends: i64 = sqlx::query_scalar(
            "select count(*) from job_event where job_id = $1 and state in ('succeeded', 'failed', 'canceled')",
        )
        .bind(job)
        .fetch_one(&self.db)
        .await?;
        ensure!(ends == 1, "{path} has ended {ends} times");
        let deltas: i64 = sqlx::query_scalar("select count(*) from delta where job_id = $1")
            .bind(job)
            .fetch_one(&self.db)
            .await?;
        ensure!(deltas <= 1, "{path} has {deltas} deltas");
        Ok(())
    }

    /// Checks a training that was disturbed: its end, its delta and its curve.
    pub(crate) async fn check_training(
        &self,
        path: &str,
        steps: u64,
        digest: &str,
    ) -> Result<Value> {
        let training = self.client.succeeded(path).await?;
        self.has_ended_once(path).await?;
        let curve = self.curve(path).await?;
        ensure!(
            curve == (1..=steps).collect::<Vec<_>>(),
            "the curve has other steps than 1 to {steps}: {curve:?}"
        );
        let found = self.client.delta_digest(&training).await?;
        ensure!(found == digest, "the delta has other bytes: {}", state(&training));
        Ok(training)
    }

    /// The steps of a training's curve.
    pub(crate) async fn curve(&self, training: &str) -> Result<Vec<u64>> {
        let metrics = self.client.get(&format!("{training}/metrics")).await?;
        let points = metrics["data"].as_array().context("points")?;
        points.iter().map(|point| point["step"].as_u64().context("a step")).collect()
    }
}

/// How the attempts before the last one ended: by their code, with the steps that each repeated.
pub(crate) fn attempts(job: &Value) -> Result<Vec<(String, Figures)>> {
    let attempts = job["previous_attempts"].as_array();
    let attempts =
        attempts.with_context(|| format!("there is no previous_attempts: {}", state(job)))?;
    let mut resumed =
        attempts.iter().map(|attempt| &attempt["resumed_from_step"]).skip(1).collect::<Vec<_>>();
    resumed.push(&job["resumed_from_step"]);
    let named = attempts.iter().zip(resumed).map(|(attempt, resumed)| {
        let reached = attempt["reached_step"].as_u64().unwrap_or(0);
        let repeated = reached.saturating_sub(resumed.as_u64().unwrap_or(0));
        let code = attempt["reason"]["code"].as_str().unwrap_or_default().to_owned();
        (code, figures([("steps repeated", repeated as f64)]))
    });
    Ok(named.collect())
}

/// Where a process of a fault logs to.
pub(crate) fn log(fault: &str, role: &str) -> PathBuf {
    crate::report::folder().join(format!("logs/{fault}.{role}.log"))
}

/// Removes what an earlier run has logged.
pub(crate) fn forget_logs(fault: &str) {
    let logs: &Path = &crate::report::folder().join("logs");
    for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&format!("{fault}.")) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
