//! What checkpoints cost: a training's speed with them and without, in pairs, and the parts of one of Stable Diffusion 1.5's size.
//!
//! `cargo bench --bench checkpoints` prints a table in Markdown. `-- --rounds 5 --steps 400` says how long to measure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use clap::Parser;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use sqlx::PgPool;
use vstar::config::{
    AccessSettings, DEFAULT_IDLE_TIMEOUT, DEFAULT_MAX_CONNECTIONS, EndingSettings, ServeSettings,
    Settings, WorkerSettings, bundled,
};
use vstar::domain::digest::Digest;
use vstar::domain::id::{JobId, TrainingId};
use vstar::domain::storage_key::StorageKey;
use vstar::engine::random::{Purpose, Random};
use vstar::engine::{ParameterState, TrainerState};
use vstar::postgres::PrivatePostgres;
use vstar::serve::{Service, connect};
use vstar::storage::Storage;

/// Trained numbers of a Stable Diffusion 1.5: its key and value projections of the cross-attention.
const NUMBERS: usize = 19_169_280;

#[derive(Parser)]
struct Args {
    /// Pairs of trainings.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Steps of each training.
    #[arg(long, default_value_t = 400)]
    steps: usize,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    // As in the program itself.
    // SAFETY: no other thread exists yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let args = Args::parse();
    println!("| what | measured |\n|---|---|");
    runtime.block_on(large(args.rounds))?;
    runtime.block_on(pairs(args.rounds, args.steps))
}

/// The parts of a checkpoint, each by itself.
async fn large(rounds: usize) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("vstar-checkpoints-").tempdir_in("target")?;
    let storage = Storage::open(&folder.path().display().to_string())?;
    let tensor = |index| -> Result<Tensor> {
        let mut values = vec![0.0; NUMBERS];
        Random::new(1, Purpose::Noise, index, 0).normals(&mut values);
        Ok(Tensor::from_vec(values, (NUMBERS / 768, 768), &Device::Cpu)?)
    };
    let parameter = ParameterState {
        name: "projections".to_owned(),
        value: tensor(0)?,
        first_moment: tensor(1)?,
        second_moment: tensor(2)?,
    };
    let state = TrainerState { step: 1, parameters: vec![parameter] };
    let mut seconds: [Vec<f64>; 5] = Default::default();
    let mut mib = 0;
    for round in 0..rounds {
        let key = StorageKey::checkpoint(JobId::generate(), 1, round);
        let mut began = Instant::now();
        let mut lap = |part: usize| {
            seconds[part].push(began.elapsed().as_secs_f64());
            began = Instant::now();
        };
        let taken = state.clone().on_host()?;
        lap(0);
        let file = taken.to_safetensors()?;
        lap(1);
        let digest = Digest::of(&file);
        lap(2);
        mib = file.len() >> 20;
        storage.write(&key, file).await?;
        lap(3);
        let file = storage.read(&key).await?;
        ensure!(Digest::of(&file) == digest, "other bytes");
        TrainerState::from_safetensors(&file)?;
        lap(4);
    }
    let parts =
        ["taken out", "serialized", "its digest", "written to a folder", "read and checked"];
    for (part, seconds) in parts.iter().zip(&mut seconds) {
        println!("| {mib} MiB {part} | {:.1} ms |", 1e3 * median(seconds));
    }
    Ok(())
}

/// Trainings on `tiny` with checkpoints as by default and without any, in turn.
async fn pairs(rounds: usize, steps: usize) -> Result<()> {
    let (with, without) = (Running::start(None).await?, Running::start(Some(u32::MAX)).await?);
    let (mut rates, mut ratios) = ([Vec::new(), Vec::new()], Vec::new());
    for round in 0..=rounds {
        let pair = match round % 2 {
            0 => [with.train(steps).await?, without.train(steps).await?],
            _ => {
                let without = without.train(steps).await?;
                [with.train(steps).await?, without]
            }
        };
        // The first round fills caches and pools.
        if round > 0 {
            ratios.push(pair[0] / pair[1]);
            rates[0].push(pair[0]);
            rates[1].push(pair[1]);
        }
    }
    let [mut of_with, mut of_without] = rates;
    println!("| steps per second on `tiny` with checkpoints | {:.2} |", median(&mut of_with));
    println!("| without | {:.2} |", median(&mut of_without));
    ratios.sort_by(f64::total_cmp);
    let all: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
    println!("| with to without, pair by pair | {} |", all.join(", "));
    with.stop().await;
    without.stop().await;
    Ok(())
}

/// A service with one concept.
struct Running {
    service: Service,
    address: String,
    client: reqwest::Client,
    db: PgPool,
    postgres: PrivatePostgres,
    folder: tempfile::TempDir,
}

impl Running {
    async fn start(checkpoint_every: Option<u32>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("vstar-checkpoints-").tempdir_in("target")?;
        let data = folder.path().canonicalize()?;
        let postgres = data.join("postgres");
        let postgres =
            tokio::task::spawn_blocking(move || PrivatePostgres::start(&postgres, None, true));
        let postgres = postgres.await??;
        let settings = ServeSettings {
            common: Settings {
                database_url: Some(postgres.url().to_owned()),
                pg_bin: None,
                object_store: Some(data.join("objects").display().to_string()),
                data_dir: data,
                base_model: None,
                evaluator: None,
                device: "cpu".to_owned(),
                precision: None,
                threads: None,
                worker: WorkerSettings { checkpoint_every, ..WorkerSettings::default() },
                metrics_listen: None,
                ending: EndingSettings::default(),
            },
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            queue_limit: 100,
            ready_queue_depth: None,
            public_url: None,
            allow_private_webhooks: false,
            access: AccessSettings::default(),
            no_worker: false,
            max_connections: DEFAULT_MAX_CONNECTIONS,
            idle_timeout: DEFAULT_IDLE_TIMEOUT,
        };
        let service = Service::start(&settings).await?;
        let running = Self {
            address: format!("http://{}", service.address),
            service,
            client: reqwest::Client::new(),
            db: connect(postgres.url()).await?,
            postgres,
            folder,
        };
        let concept = json!({ "handle": "dog", "modifier_token": "<dog>", "class_noun": "dog" });
        running.post("/v1/concepts", concept).await?;
        let mut form = Form::new();
        for entry in std::fs::read_dir(bundled("demo/concepts/dog").context("no photos")?)? {
            let file = std::fs::read(entry?.path())?;
            form = form.part("files", Part::bytes(file).file_name("a.jpg"));
        }
        let url = format!("{}/v1/concepts/dog/images", running.address);
        running.client.post(url).multipart(form).send().await?.error_for_status()?;
        Ok(running)
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        let request = self.client.post(format!("{}{path}", self.address)).json(&body);
        Ok(request.send().await?.error_for_status()?.json().await?)
    }

    /// Trains, and returns the steps per second between the first and the last event of the steps.
    async fn train(&self, max_train_steps: usize) -> Result<f64> {
        let recipe = json!({ "max_train_steps": max_train_steps, "num_class_images": 20 });
        let body = json!({ "concepts": ["dog"], "recipe": recipe, "seed": 1 });
        let training = self.post("/v1/trainings", body).await?;
        let id: TrainingId = training["id"].as_str().context("no id")?.parse()?;
        let job = JobId::from(id).0;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let state: String = sqlx::query_scalar("select state from job where job_id = $1")
                .bind(job)
                .fetch_one(&self.db)
                .await?;
            match state.as_str() {
                "queued" | "running" => {}
                "succeeded" => break,
                other => anyhow::bail!("the training is {other}"),
            }
        }
        let rate = "
            with step as (
                select (progress ->> 'step')::float8 as step, extract(epoch from created_at)::float8 as at
                from job_event
                where job_id = $1 and phase = 'optimizing' and progress is not null
            )
            select (max(step) - min(step)) / (max(at) - min(at)) from step";
        Ok(sqlx::query_scalar(rate).bind(job).fetch_one(&self.db).await?)
    }

    async fn stop(self) {
        self.service.stop().await;
        self.db.close().await;
        let end = move || drop((self.postgres, self.folder));
        let _ = tokio::task::spawn_blocking(end).await;
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
