//! Workers that are asked to end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::client::{has_ended, state, training_of};
use crate::program;
use crate::report::{Run, figures};
use crate::sampling::sample_of;
use crate::training::{INTERVAL, STEPS};
use crate::world::{LEASE, Setup, World};

/// A sample that takes longer than a lease.
fn long_sample() -> Value {
    sample_of("a dog", 1, 4, 900)
}

pub(crate) async fn longer_than_the_lease(run: Run) -> Result<()> {
    let world = World::start(&run, Setup::workers(1)).await?;
    let path = world.client.start("/v1/samples", &long_sample()).await?;
    let undisturbed = world.client.image_digests(&world.client.succeeded(&path).await?).await?;

    run.rounds(1, async |round| {
        for worker in world.workers() {
            world.kill_worker(worker)?;
        }
        let mut command = world.command("work").await;
        let (mut grace, mut limit) = (0, 25);
        if program::help("work").contains("--drain-grace") {
            (grace, limit) = (40, 60);
            command.args(["--drain-grace", "40", "--shutdown-timeout", "60"]);
        }
        let first = world.add_worker_by(command)?;
        let path = world.client.start("/v1/samples", &long_sample()).await?;
        let runs = |job: &Value| has_ended(job) || job["progress"]["step"].as_u64() > Some(0);
        world.client.wait(&path, runs).await?;
        let mut draining = world.take_worker(first)?;
        draining.signal(libc::SIGTERM);
        let asked = Instant::now();
        world.add_worker().await?;
        let frozen = round.number % 3 == 2;
        if frozen {
            tokio::time::sleep(Duration::from_secs(1)).await;
            draining.signal(libc::SIGSTOP);
            tokio::time::sleep(LEASE).await;
            draining.signal(libc::SIGCONT);
        }
        let allowed = Duration::from_secs(limit + 5) + if frozen { LEASE } else { Duration::ZERO };
        let (status, _) = draining.wait(allowed).await?;
        let exit = asked.elapsed();
        ensure!(status.success(), "ended with {status}: {}", draining.log_tail());

        let sample = world.client.succeeded(&path).await?;
        world.has_ended_once(&path).await?;
        ensure!(
            world.client.image_digests(&sample).await? == undisturbed,
            "other images: {}",
            state(&sample)
        );
        let attempts = sample["attempt"].as_u64().unwrap_or(0);
        ensure!(attempts <= 2, "{}", state(&sample));
        Ok(figures([
            ("s to exit", exit.as_secs_f64()),
            ("s of grace", f64::from(grace)),
            ("attempts", attempts as f64),
        ]))
    })
    .await
}

pub(crate) async fn second_sigterm(run: Run) -> Result<()> {
    let at_once = Duration::from_secs(2);
    let world = World::start(&run, Setup::workers(1).checkpoint_every(INTERVAL)).await?;
    world.client.concept("dog", "dog").await?;
    let undisturbed = world.undisturbed("dog", STEPS).await?;

    run.rounds(1, async |round| {
        let path = world.client.start("/v1/trainings", &training_of("dog", STEPS)).await?;
        world.reach(&path, round.step(1, STEPS - 20)).await?;
        let mut worker = world.take_worker(world.workers()[0])?;
        worker.signal(libc::SIGTERM);
        tokio::time::sleep(round.millis(60)).await;
        worker.signal(libc::SIGTERM);
        let (_, exit) = worker.wait(at_once).await?;
        let mut api = world.take_api()?;
        api.signal(libc::SIGTERM);
        tokio::time::sleep(Duration::from_millis(200)).await;
        api.signal(libc::SIGTERM);
        let (_, api_exit) = api.wait(at_once).await?;
        drop(api);

        world.start_api().await?;
        world.add_worker().await?;
        let training = world.check_training(&path, STEPS, &undisturbed).await?;
        ensure!(training["attempt"].as_u64() <= Some(2), "{}", state(&training));
        Ok(figures([
            ("s until a worker has ended", exit.as_secs_f64()),
            ("s until an API has ended", api_exit.as_secs_f64()),
        ]))
    })
    .await
}
