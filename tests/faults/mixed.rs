//! A mixed load on two workers, one of which is killed every ten seconds.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::client::{state, training_of};
use crate::report::{Run, figures, is_long};
use crate::store::S3Server;
use crate::world::{Setup, World, log};

const STEPS: u64 = 60;
const KILL_EVERY: Duration = Duration::from_secs(10);

/// What is asked for, and for how long workers are killed.
struct Load {
    trainings: usize,
    samples: usize,
    lasts: Duration,
}

impl Load {
    fn chosen() -> Self {
        match is_long() {
            true => Self { trainings: 20, samples: 500, lasts: Duration::from_secs(300) },
            false => Self { trainings: 3, samples: 40, lasts: Duration::from_secs(25) },
        }
    }

    fn training(index: usize) -> Value {
        let mut body = training_of(["dog", "gate"][index % 2], STEPS);
        body["seed"] = json!(index);
        body
    }

    /// Most samples are of the base model; every fifth is of a delta.
    fn sample(index: usize, delta: &str) -> Value {
        let mut body = json!({
            "prompt": "photo of a dog", "seed": index, "num_inference_steps": 2, "width": 32, "height": 32,
        });
        if index.is_multiple_of(5) {
            body["concepts"] = json!([{ "delta": delta }]);
        }
        body
    }
}

pub(crate) async fn load(run: Run) -> Result<()> {
    let server = S3Server::start(&log(run.fault.name, "s3")).await?;
    let setup = Setup { s3: Some(server.port), ..Setup::workers(2).checkpoint_every(10) };
    let world = World::start(&run, setup).await?;
    world.client.concept("dog", "dog").await?;
    world.client.concept("gate", "gate").await?;
    let load = Load::chosen();

    run.rounds(1, async |round| {
        // Undisturbed first.
        let mut deltas = Vec::new();
        let mut delta = String::new();
        let mut paths = Vec::new();
        for index in 0..load.trainings {
            paths.push(world.client.start("/v1/trainings", &Load::training(index)).await?);
        }
        for path in &paths {
            let training = world.client.succeeded(path).await?;
            delta = training["delta"].as_str().unwrap_or_default().to_owned();
            deltas.push(world.client.delta_digest(&training).await?);
        }
        let mut images = Vec::new();
        let mut paths = Vec::new();
        for index in 0..load.samples {
            paths.push(world.client.start("/v1/samples", &Load::sample(index, &delta)).await?);
        }
        for path in &paths {
            images.push(world.client.image_digests(&world.client.succeeded(path).await?).await?);
        }

        // Then the same, spread over the time in which workers are killed.
        let began = Instant::now();
        let (trainings, samples) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let at = |index: usize, count: usize| load.lasts.mul_f64(index as f64 / count as f64);
        let ask = async |of: &RefCell<Vec<String>>,
                         count: usize,
                         collection: &str,
                         body: &dyn Fn(usize) -> Value| {
            for index in 0..count {
                tokio::time::sleep(at(index, count).saturating_sub(began.elapsed())).await;
                let path = world.client.start(collection, &body(index)).await?;
                of.borrow_mut().push(path);
            }
            anyhow::Ok(())
        };
        let kills = Cell::new(0);
        let kill = async {
            while began.elapsed() + KILL_EVERY / 2 < load.lasts {
                tokio::time::sleep(KILL_EVERY).await;
                let workers = world.workers();
                world.kill_worker(workers[(round.fraction() * workers.len() as f64) as usize])?;
                kills.set(kills.get() + 1);
                world.add_worker().await?;
            }
            anyhow::Ok(())
        };
        let sample = |index: usize| Load::sample(index, &delta);
        let (asked, also, killed) = tokio::join!(
            ask(&trainings, load.trainings, "/v1/trainings", &Load::training),
            ask(&samples, load.samples, "/v1/samples", &sample),
            kill,
        );
        asked.and(also).and(killed)?;

        let (mut attempts, mut disturbed) = (0, 0);
        for (index, path) in trainings.take().into_iter().enumerate() {
            let training = world.check_training(&path, STEPS, &deltas[index]).await?;
            attempts = attempts.max(training["attempt"].as_u64().unwrap_or(0));
            disturbed += u64::from(training["attempt"].as_u64() > Some(1));
        }
        for (index, path) in samples.take().into_iter().enumerate() {
            let sample = world.client.succeeded(&path).await?;
            world.has_ended_once(&path).await?;
            let found = world.client.image_digests(&sample).await?;
            ensure!(found == images[index], "sample {index} has other images: {}", state(&sample));
            attempts = attempts.max(sample["attempt"].as_u64().unwrap_or(0));
            disturbed += u64::from(sample["attempt"].as_u64() > Some(1));
        }
        let open: i64 =
            sqlx::query_scalar("select count(*) from job where state in ('queued', 'running')")
                .fetch_one(&world.db)
                .await?;
        ensure!(open == 0, "{open} jobs are left");
        Ok(figures([
            ("workers killed", f64::from(kills.get())),
            ("jobs disturbed", disturbed as f64),
            ("attempts of one job", attempts as f64),
            ("s in all", began.elapsed().as_secs_f64()),
        ]))
    })
    .await
}
