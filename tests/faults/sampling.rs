//! Workers that are killed while they sample.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::client::state;
use crate::report::{Run, figures};
use crate::world::{Setup, World};

/// Workers that are killed in one round.
const WORKERS: usize = 5;
/// Samples of a round, and their seeds.
const SAMPLES: usize = 20;
const SEEDS: usize = 10;

/// A sample that takes a while.
pub(crate) fn sample_of(prompt: &str, seed: usize, n: usize, steps: usize) -> Value {
    json!({
        "prompt": prompt, "seed": seed, "n": n, "num_inference_steps": steps, "width": 64, "height": 64,
    })
}

pub(crate) async fn killed(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(1)).await?;
    let prompt = |seed: usize| format!("photo of a dog number {seed}");
    let mut undisturbed = Vec::new();
    for seed in 0..SEEDS {
        let path =
            world.client.start("/v1/samples", &sample_of(&prompt(seed), seed, 2, 100)).await?;
        let sample = world.client.succeeded(&path).await?;
        undisturbed.push(world.client.image_digests(&sample).await?);
    }

    run.rounds_of(WORKERS as u64, 1, async |round| {
        for worker in world.workers() {
            world.kill_worker(worker)?;
        }
        let mut samples = Vec::new();
        for index in 0..SAMPLES {
            let seed = index % SEEDS;
            let request = sample_of(&prompt(seed), seed, 2, 100);
            samples.push((seed, world.client.start("/v1/samples", &request).await?));
        }
        // So small a batch that each worker gets some of them.
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            let mut command = world.command("work").await;
            command.args(["--max-batch-size", "8"]);
            workers.push(world.add_worker_by(command)?);
        }
        let running = |samples: &[Value]| {
            samples.iter().filter(|sample| sample["status"] == "running").count()
        };
        let began = Instant::now();
        while running(&all(&world, &samples).await?) < SAMPLES / 2
            && began.elapsed() < Duration::from_secs(20)
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (mut killed, mut with_work) = (Instant::now(), 0);
        for worker in workers {
            tokio::time::sleep(round.millis(200)).await;
            with_work += u64::from(has_work(&world, worker).await?);
            world.kill_worker(worker)?;
            killed = Instant::now();
        }
        ensure!(with_work > 0, "no worker had a sample when it was killed");
        for _ in 0..2 {
            world.add_worker().await?;
        }

        let mut attempts = 0;
        for (seed, path) in &samples {
            let sample = world.client.succeeded(path).await?;
            world.has_ended_once(path).await?;
            let found = world.client.image_digests(&sample).await?;
            ensure!(found == undisturbed[*seed], "other images: {}", state(&sample));
            attempts = attempts.max(sample["attempt"].as_u64().unwrap_or(0));
        }
        ensure!(attempts >= 2, "no sample was disturbed");
        Ok(figures([
            ("s until all samples are there", killed.elapsed().as_secs_f64()),
            ("attempts", attempts as f64),
            ("of the workers had samples", with_work as f64),
        ]))
    })
    .await
}

async fn all(world: &World, samples: &[(usize, String)]) -> Result<Vec<Value>> {
    let mut bodies = Vec::new();
    for (_, path) in samples {
        bodies.push(world.client.get(path).await?);
    }
    Ok(bodies)
}

async fn has_work(world: &World, worker: i32) -> Result<bool> {
    let names: Vec<String> =
        sqlx::query_scalar("select distinct worker from job where state = 'running'")
            .fetch_all(&world.db)
            .await?;
    let id = worker.to_string();
    Ok(names
        .iter()
        .any(|name| name.split(|letter: char| !letter.is_ascii_digit()).any(|part| part == id)))
}
