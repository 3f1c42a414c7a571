//! The service under test, started in this process, and what its catalog says of samples.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::Row;
use vstar::config::{
    AccessSettings, DEFAULT_IDLE_TIMEOUT, DEFAULT_MAX_CONNECTIONS, EndingSettings, ServeSettings,
    Settings, WorkerSettings, bundled,
};
use vstar::domain::id::{JobId, SampleId};
use vstar::engine::BaseModel;
use vstar::postgres::PrivatePostgres;
use vstar::serve::{Service, connect};
use vstar::storage::Storage;

use crate::concepts::Concepts;

/// A service with its database; it ends with [`Running::stop`].
pub(crate) struct Running {
    service: Service,
    client: reqwest::Client,
    address: String,
    concepts: Concepts,
    added: Cell<usize>,
    /// Of the next sample that shall be like no other.
    seed: Cell<usize>,
    postgres: PrivatePostgres,
    folder: tempfile::TempDir,
}

/// When a sample got how far, in seconds since 1970.
pub(crate) struct Sample {
    pub(crate) created_at: f64,
    pub(crate) first_step_at: f64,
    pub(crate) finished_at: f64,
}

/// What a request was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) id: String,
    pub(crate) retry_after: Option<u64>,
    /// Since the request was meant to be sent.
    pub(crate) seconds: f64,
}

/// A training in progress.
pub(crate) struct Training {
    path: String,
    /// While no sample waits.
    pub(crate) steps_per_second: f64,
}

/// Starts a service as `vstar serve` does.
pub(crate) async fn start(worker: WorkerSettings, queue_limit: usize) -> Result<Running> {
    let folder = tempfile::Builder::new().prefix("vstar-serving-").tempdir()?;
    let data = folder.path().join("postgres");
    let postgres =
        tokio::task::spawn_blocking(move || PrivatePostgres::start(&data, None, true)).await??;
    let objects = folder.path().join("objects").display().to_string();
    let settings = ServeSettings {
        common: Settings {
            data_dir: folder.path().to_owned(),
            database_url: Some(postgres.url().to_owned()),
            pg_bin: None,
            object_store: Some(objects.clone()),
            base_model: None,
            evaluator: None,
            device: "cpu".to_owned(),
            precision: None,
            threads: None,
            worker,
            metrics_listen: None,
            ending: EndingSettings::default(),
        },
        max_connections: DEFAULT_MAX_CONNECTIONS,
        idle_timeout: DEFAULT_IDLE_TIMEOUT,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        queue_limit,
        ready_queue_depth: None,
        public_url: None,
        allow_private_webhooks: false,
        access: AccessSettings::default(),
        no_worker: false,
    };
    let service = Service::start(&settings).await?;
    let dir = settings.common.base_model_dir().map_err(anyhow::Error::msg)?;
    let base = BaseModel::load(&dir, &candle_core::Device::Cpu)?;
    let db = connect(postgres.url()).await?;
    let concepts = Concepts::new(db, Storage::open(&objects)?, &base)?;
    Ok(Running {
        address: format!("http://{}", service.address),
        service,
        client: reqwest::Client::new(),
        concepts,
        added: Cell::new(0),
        seed: Cell::new(0),
        postgres,
        folder,
    })
}

impl Running {
    /// Adds concepts `<c-0>`, `<c-1>`, … until there are `count`. Returns the size of the last one's file.
    pub(crate) async fn add_concepts(&self, count: usize) -> Result<usize> {
        let mut size = 0;
        while self.added.get() < count {
            let concept = self.concepts.add(self.added.get() as u64).await?;
            size = self.concepts.storage.read(&concept.delta_key).await?.len();
            ensure!(concept.token == format!("<c-{}>", self.added.get()), "another token");
            self.added.set(self.added.get() + 1);
        }
        Ok(size)
    }

    pub(crate) fn next_seed(&self) -> usize {
        self.seed.replace(self.seed.get() + 1)
    }

    pub(crate) fn delta_cache_bytes(&self) -> usize {
        self.service.deltas.used_bytes()
    }

    /// Posts a sample; `since` is when it was meant to be sent.
    pub(crate) async fn post(&self, request: Value, since: Instant) -> Result<Answer> {
        let url = format!("{}/v1/samples", self.address);
        let response = self.client.post(url).json(&request).send().await?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        let body: Value = response.json().await?;
        ensure!([201, 202, 503].contains(&status), "{status}: {body}");
        let id = body["id"].as_str().unwrap_or_default().to_owned();
        Ok(Answer { status, id, retry_after, seconds: since.elapsed().as_secs_f64() })
    }

    /// Waits until samples have succeeded, and reads their times, in their order.
    ///
    /// The catalog is asked instead of the service: the clients of this benchmark shall not be part of its load.
    pub(crate) async fn wait(&self, samples: &[String]) -> Result<Vec<Sample>> {
        let mut ids = Vec::new();
        for sample in samples {
            let id: SampleId = sample.parse()?;
            ids.push(JobId::from(id).0);
        }
        loop {
            let query = "
                select state, extract(epoch from created_at)::float8 as created,
                    extract(epoch from first_step_at)::float8 as began, extract(epoch from finished_at)::float8 as finished
                from job where job_id = any($1) and finished_at is not null order by array_position($1, job_id)";
            let rows = sqlx::query(query).bind(&ids).fetch_all(&self.concepts.db).await?;
            if rows.len() == ids.len() {
                let sample = |row: &sqlx::postgres::PgRow| {
                    let state: String = row.try_get("state")?;
                    ensure!(state == "succeeded", "a sample has {state}");
                    Ok(Sample {
                        created_at: row.try_get("created")?,
                        first_step_at: row.try_get("began")?,
                        finished_at: row.try_get("finished")?,
                    })
                };
                return rows.iter().map(sample).collect();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts a training that takes longer than the benchmark, and waits until it has found its pace.
    pub(crate) async fn begin_training(&self) -> Result<Training> {
        let concept = json!({ "handle": "dog", "modifier_token": "<dog>", "class_noun": "dog" });
        self.call("/v1/concepts", concept).await?;
        let dir = bundled("demo/concepts/dog").context("no photos of a dog")?;
        let mut form = Form::new();
        for entry in std::fs::read_dir(dir)? {
            form =
                form.part("files", Part::bytes(std::fs::read(entry?.path())?).file_name("a.jpg"));
        }
        let url = format!("{}/v1/concepts/dog/images", self.address);
        self.client.post(url).multipart(form).send().await?.error_for_status()?;
        let recipe = json!({ "max_train_steps": 100_000, "num_class_images": 20 });
        let body = json!({ "concepts": ["dog"], "recipe": recipe });
        let started = self.call("/v1/trainings", body).await?;
        let path = format!("/v1/trainings/{}", started["id"].as_str().context("no id")?);
        loop {
            let training = self.get(&path).await?;
            let progress = &training["progress"];
            ensure!(training["status"] != "failed", "{training}");
            let (step, rate) = (progress["step"].as_u64(), progress["steps_per_second"].as_f64());
            if let (Some(20..), Some(steps_per_second), Some("optimizing")) =
                (step, rate, training["phase"].as_str())
            {
                return Ok(Training { path, steps_per_second });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn training_step(&self, training: &Training) -> Result<u64> {
        let training = self.get(&training.path).await?;
        training["progress"]["step"].as_u64().context("no progress")
    }

    async fn call(&self, path: &str, body: Value) -> Result<Value> {
        let request = self.client.post(format!("{}{path}", self.address)).json(&body);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let request = self.client.get(format!("{}{path}", self.address));
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    pub(crate) async fn stop(self) {
        self.service.stop().await;
        self.concepts.db.close().await;
        let end = move || drop((self.postgres, self.folder));
        let _ = tokio::task::spawn_blocking(end).await;
    }
}
